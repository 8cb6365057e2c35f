FROM python:3.13-alpine
COPY listener.py /
# The listener may run as any user, whatever umask the file was checked out with.
RUN chmod 0644 /listener.py
# Its default log is then /listener_log/log.log.
WORKDIR /
EXPOSE 8086/tcp 8086/udp
# Not through a proxy, which docker may have put into the environment.
HEALTHCHECK --interval=3s --timeout=5s CMD ["python", "-c", \
    "import urllib.request as r; \
    r.build_opener(r.ProxyHandler({})).open('http://127.0.0.1:8086/healthz', timeout=4)"]
ENTRYPOINT ["python", "/listener.py"]
