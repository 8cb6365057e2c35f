# The stack: a registry, a token server and the listener. `make` alone lists the targets.
# May be set in the environment or on the command line:
HOSTNAME ?= localhost
# the registry's image: 2 or 3, or a longer tag that begins so
REGISTRY ?= 2
# the address that the registry and the token server are published on; 0.0.0.0 for all
BIND ?= 127.0.0.1
COMPOSE ?= docker compose
PYTHON ?= python3

export REGISTRY BIND

CONTAINERS = sts_docker_auth_registry_1 sts_docker_auth sts_listener_server

# $(call need,TOOL,a command that works where the tool does,where to get it)
need = @$(2) >/dev/null 2>&1 || { $(2) >/dev/null; \
	echo "make $@: $(1) does not work here: $(strip $(3))" >&2; exit 1; }
need_docker = $(call need,docker,docker info,\
install Docker Engine (https://docs.docker.com/engine/install) and start it; be in its group docker)
need_compose = $(call need,$(COMPOSE),$(COMPOSE) version,\
install Compose v2 (https://docs.docker.com/compose/install) or say COMPOSE=docker-compose)
need_stack = @docker exec sts_listener_server true 2>/dev/null || { \
	echo "make $@: the stack does not run: make run, in another terminal" >&2; exit 1; }

# The names of the containers are fixed: one of another folder's stack would be taken over.
FOLDER = '{{index .Config.Labels "com.docker.compose.project.working_dir"}}'
need_own = @for name in $(CONTAINERS); do \
	folder=$$(docker container inspect $$name -f $(FOLDER) 2>/dev/null) || continue; \
	[ "$$(cd "$${folder:-/}" 2>/dev/null && pwd -P)" = "$(CURDIR)" ] || { \
	    echo "make $@: the container $$name belongs to $${folder:-no compose file}, not to" \
	        "$(CURDIR). To remove it (what was pushed stays): docker rm -f $(CONTAINERS)" >&2; \
	    exit 1; }; done

need_ports = @for port in "$(BIND) 5000 tcp" "$(BIND) 5001 tcp" "127.0.0.1 8086 tcp" \
	    "127.0.0.1 8086 udp"; do set -- $$port; \
	holder=$$(docker ps --filter publish=$$2/$$3 --format '{{.Names}}'); \
	case " $(CONTAINERS) " in *" $$holder "*) continue ;; esac; \
	if [ "$$holder" ]; then how="the container $$holder: docker stop $$holder"; else \
	    [ "$$1" != 0.0.0.0 ] || set -- '[^ ]*' $$2 $$3; \
	    holder=$$({ ss -Hlnp --$$3 || lsof -nP -i$$3 | awk '{ print "", $$9, "pid=" $$2 }'; } \
	        2>/dev/null | grep -m1 -E " ($$1|0\.0\.0\.0|\*):$$2( |$$)") || continue; \
	    pid=$$(echo "$$holder" | sed -n 's/.*pid=\([0-9]*\).*/\1/p'); \
	    how="$${pid:+\`$$(ps -o args= -p $$pid)\`: kill $$pid}"; \
	    how=$${how:-a process of another user: sudo ss -lntup}; fi; \
	echo "make $@: the stack needs port $$2/$$3, which is held by $$how" >&2; exit 1; done

# Lines of `make run` that nobody reads who watches the listener: of requests, and of no trouble.
REQUESTS = \
  '(registry_1|sts_docker_auth) *\|.*( level=(info|debug) |http\.request\.id=| - - \[|\| I[0-9]{4})'

.PHONY: help
help: ## list the targets (the default)
	@sed -n 's/^\([a-z]*\):.*## /\1#/p' $(MAKEFILE_LIST) | \
	    awk -F'#' '{ printf "  make %-8s%s\n", $$1, $$2 }'

.PHONY: build
build: ## build the listener's image
	$(need_docker)
	$(need_compose)
	@$(MAKE) --no-print-directory certs
	@$(COMPOSE) build

.PHONY: run
run: certs ## start the stack, until Ctrl-C: make run [REGISTRY=3] [HOSTNAME=name] [BIND=0.0.0.0]
	$(need_docker)
	$(need_compose)
	$(need_own)
	$(need_ports)
	@mkdir -p listener_log; \
	for file in listener_log listener_log/*; do \
	    [ -w "$$file" ] || [ ! -e "$$file" ] || { echo "make run: cannot write $$file, it belongs to" \
	        "another user: sudo chown -R $$(id -u):$$(id -g) listener_log" >&2; exit 1; }; done
	@# Where the Docker Engine runs without root, a container's root is the user who started it.
	@case $$(docker info -f '{{.SecurityOptions}}') in \
	    *name=rootless*) LISTENER_USER=0:0 ;; *) LISTENER_USER=$$(id -u):$$(id -g) ;; esac; \
	TZ=$${TZ:-$$(readlink /etc/localtime | sed 's,.*/zoneinfo/,,')}; export LISTENER_USER TZ; \
	$(COMPOSE) up -d --build --force-recreate || exit; \
	echo; echo "The stack runs: the registry at $(HOSTNAME):5000, what it does at" \
	    "http://localhost:8086/; in another terminal: make demo."; \
	echo "What the listener says follows, and of the others what is no request. All lines of the" \
	    "registry: docker logs -f sts_docker_auth_registry_1"; echo; \
	trap : INT HUP; $(COMPOSE) --ansi never logs -f 2>&1 | \
	    { trap '' INT; grep --line-buffered -vE $(REQUESTS); }; $(COMPOSE) stop

.PHONY: stop
stop: ## stop the containers, also from another terminal
	$(need_docker)
	$(need_compose)
	$(need_own)
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
	@for registry in 2 3 $(REGISTRY); do \
	    echo "REGISTRY_AUTH_TOKEN_REALM=https://$(HOSTNAME):5001/auth" \
	        >certs/made_by_make_certs_for_registry_$$registry.env; \
	    config=certs/auth_config_for_registry_$$registry.yml; \
	    case $$registry in \
	        3*) sed 's/\(disable_legacy_key_id\): false/\1: true/' auth_config.yml >$$config ;; \
	        *) ln -sf ../auth_config.yml $$config ;; \
	    esac; done

.PHONY: demo
demo: ## while the stack runs: push and pull a tiny image, and show what the listener says
	$(need_docker)
	$(need_own)
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
	echo; echo "What the listener said of it:"; said; \
	echo; echo "The events, as they came, in $$log:"; tail -n +$$first $$log

# $(call read,COMMAND): the listener's program, in its container or, when that does not run, here,
# with all that the registry logged: `docker logs` also has what the listener missed.
read = if docker exec sts_listener_server true 2>/dev/null; then \
	    listener="docker exec -i sts_listener_server python /listener.py" \
	    debug="--registry http://registry:5001"; \
	elif $(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 9))' 2>/dev/null; then \
	    listener="$(PYTHON) listener.py" debug=; \
	else echo "make $@: the stack does not run: make run; without it, $@ needs Python 3.9 or newer:" \
	    "install it (https://www.python.org) or say PYTHON=" >&2; exit 1; fi; \
	logs=$$(ls listener_log/registry.log* 2>/dev/null | sed 's/^/--registry-log /'); \
	{ ! docker container inspect sts_docker_auth_registry_1 >/dev/null 2>&1 || \
	    docker logs sts_docker_auth_registry_1 2>&1; } | $$listener $(1) --registry-log - $$logs

.PHONY: pulls
pulls: ## what was pulled, and whether it was interrupted: make pulls [ARGS=--json]
	$(need_own)
	@$(call read,pulls) $(ARGS)

# Containers that do not run, and what they are instead: `sts_docker_auth (exited)`.
stopped = $$(docker info >/dev/null 2>&1 && for name in $(CONTAINERS); do \
	state=$$(docker container inspect -f '{{.State.Status}}' $$name 2>/dev/null) || state=missing; \
	[ "$$state" = running ] || printf ' %s (%s)' $$name $$state; done)

.PHONY: check
check: ## why nothing arrives, and what to do
	$(need_own)
	@stopped="$(stopped)"; [ -z "$$stopped" ] || \
	    printf 'Not running:%s. Start the stack: make run, in another terminal.\n\n' "$$stopped"; \
	$(call read,check) $$debug $(ARGS) && [ -z "$$stopped" ]

.venv/bin/pytest:
	$(call need,$(PYTHON) with venv,$(PYTHON) -c 'import venv; import ensurepip',\
	install Python 3.9 or newer (https://www.python.org) and on Debian the package python3-venv)
	@$(PYTHON) -m venv .venv && .venv/bin/python -m pip install -q --disable-pip-version-check pytest

.PHONY: test
test: .venv/bin/pytest ## run the tests, the stack's too where there is Docker: make test [ARGS=-x]
	@.venv/bin/python -m pytest $(ARGS)

.venv-engines/bin/spark-submit:
	$(call need,$(PYTHON) with venv,$(PYTHON) -c 'import venv; import ensurepip',\
	install Python 3.10 or newer (https://www.python.org) and on Debian the package python3-venv)
	@$(PYTHON) -m venv .venv-engines && .venv-engines/bin/python -m pip install -q \
	    --disable-pip-version-check pytest duckdb pyspark

.PHONY: engines
engines: .venv-engines/bin/spark-submit ## run the tests of tests/engines: DuckDB, Spark, rsyslog
	$(call need,java,java -version,install Java 17 or newer; on Debian: default-jre-headless)
	$(call need,rsyslogd,rsyslogd -v,on Debian: the packages rsyslog and rsyslog-relp)
	@STS_ENGINES=1 .venv-engines/bin/python -m pytest tests/engines $(ARGS)

.PHONY: bench
bench: .venv/bin/pytest ## compare the listener with others
	@.venv/bin/python tests/bench.py $(ARGS)

.PHONY: clean
clean: ## remove the containers, all that was pushed, certs/ and .venv/; listener_log/ stays
	$(need_docker)
	$(need_compose)
	$(need_own)
	@# Without this file Compose does nothing.
	@mkdir -p certs; touch certs/made_by_make_certs_for_registry_$(REGISTRY).env
	@$(COMPOSE) down --volumes --rmi local
	@rm -rf certs .venv .venv-bench .venv-engines .pytest_cache
	@echo "removed: the containers and their network, the volume with all that was pushed, the" \
	    "listener's image, certs/ (key and certificate), .venv/, .venv-bench/ and .venv-engines/" \
	    "(pytest and what make bench and make engines need), .pytest_cache/. listener_log/ is" \
	    "still there."
