# The stack: a registry, a token server and the listener. `make` alone lists the targets.
# May be set in the environment or on the command line:
HOSTNAME ?= localhost
# the registry's image: 2 or 3, or a longer tag that begins so
REGISTRY ?= 2
# the address that the ports are published on; 0.0.0.0 for all
BIND ?= 127.0.0.1
COMPOSE ?= docker compose
PYTHON ?= python3

# registry:3 knows the token server's key by another id: see auth_config.yml.
AUTH_CONFIG = $(if $(filter 3 3.%,$(REGISTRY)),certs/auth_config.yml,auth_config.yml)
export HOSTNAME REGISTRY BIND AUTH_CONFIG

# $(call need,TOOL,a command that works where the tool does,where to get it)
need = @$(2) >/dev/null 2>&1 || { $(2) >/dev/null; \
	echo "make $@: $(1) does not work here: $(strip $(3))" >&2; exit 1; }
need_docker = $(call need,docker,docker info,\
install Docker Engine (https://docs.docker.com/engine/install) and start it; be in its group docker)
need_compose = $(call need,$(COMPOSE),$(COMPOSE) version,\
install Compose v2 (https://docs.docker.com/compose/install) or say COMPOSE=docker-compose)
need_stack = @docker exec sts_listener_server true 2>/dev/null || { \
	echo "make $@: the stack does not run: make run, in another terminal" >&2; exit 1; }

.PHONY: help
help: ## list the targets (the default)
	@sed -n 's/^\([a-z]*\):.*## /\1#/p' $(MAKEFILE_LIST) | \
	    awk -F'#' '{ printf "  make %-8s%s\n", $$1, $$2 }'

.PHONY: build
build: ## build the listener's image
	$(need_docker)
	$(need_compose)
	@$(COMPOSE) build

.PHONY: run
run: certs ## start the stack, until Ctrl-C: make run [REGISTRY=3] [HOSTNAME=name] [BIND=0.0.0.0]
	$(need_docker)
	$(need_compose)
	@mkdir -p listener_log; \
	for file in listener_log listener_log/*; do \
	    [ -w "$$file" ] || [ ! -e "$$file" ] || { echo "make run: cannot write $$file, it belongs to" \
	        "another user: sudo chown -R $$(id -u):$$(id -g) listener_log" >&2; exit 1; }; done
	@# Where the Docker Engine runs without root, a container's root is the user who started it.
	@case $$(docker info -f '{{.SecurityOptions}}') in \
	    *name=rootless*) LISTENER_USER=0:0 ;; *) LISTENER_USER=$$(id -u):$$(id -g) ;; esac; \
	TZ=$${TZ:-$$(readlink /etc/localtime | sed 's,.*/zoneinfo/,,')}; export LISTENER_USER TZ; \
	exec $(COMPOSE) up --build --force-recreate

.PHONY: stop
stop: ## stop the containers, also from another terminal
	$(need_docker)
	$(need_compose)
	@$(COMPOSE) stop

# The key stays when the names do, so that who trusts the certificate can go on doing so.
.PHONY: certs
certs: ## make the key and certificate that the stack needs (`run` does it by itself)
	$(call need,openssl,openssl version,install it with the system's package manager)
	@mkdir -p certs; names=; for name in $(HOSTNAME) localhost 127.0.0.1 "$$(uname -n)"; do \
	    case $$name in *[!0-9.]*) kind=DNS ;; *) kind=IP ;; esac; \
	    case ,$$names, in *,$$kind:$$name,*) continue ;; esac; \
	    names=$${names:+$$names,}$$kind:$$name; done; \
	if [ "$$(cat certs/names 2>/dev/null)" != "$$names" ] || \
	    ! openssl x509 -in certs/sts.crt -noout -checkend 86400 >/dev/null 2>&1; then \
	    rm -f certs/names; umask 077; \
	    openssl req -x509 -newkey rsa:2048 -nodes -days 825 -subj "/CN=$(HOSTNAME)" \
	        -addext "subjectAltName=$$names" -keyout certs/sts.key -out certs/sts.crt \
	        2>certs/openssl.log || { cat certs/openssl.log >&2; \
	        echo "make $@: openssl made no certificate for $$names" >&2; exit 1; }; \
	    chmod 0644 certs/sts.crt; rm certs/openssl.log; echo "$$names" >certs/names; \
	    echo "made certs/sts.crt for $$names"; fi
	@sed 's/\(disable_legacy_key_id\): false/\1: true/' auth_config.yml >certs/auth_config.yml

.PHONY: demo
demo: ## while the stack runs: push and pull a tiny image, and show the events that arrive
	$(need_docker)
	$(need_stack)
	@# A docker config of its own leaves your logins alone; the engine is still the one you use.
	@set -e; \
	DOCKER_HOST=$$(docker context inspect -f '{{.Endpoints.docker.Host}}'); export DOCKER_HOST; \
	DOCKER_CONFIG=$$(mktemp -d); export DOCKER_CONFIG; trap 'rm -rf "$$DOCKER_CONFIG"' EXIT; \
	image=$(HOSTNAME):5000/demo/tiny:latest; log=listener_log/log.log; \
	since=$$(date -u +%Y-%m-%dT%H:%M:%SZ); \
	first=$$(($$(cat $$log 2>/dev/null | wc -l) + 1)); \
	echo foopass | docker login -u foo --password-stdin https://$(HOSTNAME):5000; \
	date >"$$DOCKER_CONFIG/now"; tar -C "$$DOCKER_CONFIG" -c now | docker import - $$image; \
	docker push $$image; docker rmi $$image; docker pull $$image; docker rmi $$image >/dev/null; \
	said() { docker logs --since $$since sts_listener_server; }; \
	tries=50; until said | grep -q 'demo/tiny:latest  complete'; do \
	    tries=$$((tries - 1)); [ $$tries -gt 0 ] || break; sleep 0.2; done; \
	echo; echo "What arrived in $$log:"; tail -n +$$first $$log; \
	echo; echo "What the listener said of it:"; said

.PHONY: pulls
pulls: ## what was pulled, and whether it was interrupted: make pulls [ARGS=--json]
	$(need_docker)
	$(need_stack)
	@docker exec sts_listener_server python /listener.py pulls $(ARGS)

.venv/bin/pytest:
	$(call need,$(PYTHON) with venv,$(PYTHON) -c 'import venv; import ensurepip',\
	install Python 3.9 or newer (https://www.python.org) and on Debian the package python3-venv)
	@$(PYTHON) -m venv .venv && .venv/bin/python -m pip install -q --disable-pip-version-check pytest

.PHONY: test
test: .venv/bin/pytest ## run the tests, the stack's too where there is Docker: make test [ARGS=-x]
	@.venv/bin/python -m pytest $(ARGS)

.PHONY: bench
bench: .venv/bin/pytest ## compare the listener with others
	@.venv/bin/python tests/bench.py $(ARGS)

.PHONY: clean
clean: ## remove the containers, what was pushed, certs/ and .venv/; listener_log/ stays
	@rm -rf .venv .venv-bench .pytest_cache
	$(need_docker)
	$(need_compose)
	@$(COMPOSE) down --volumes --rmi local
	@rm -rf certs
