# Caddy with caddy-bff, built by xcaddy from this directory:
#
#   docker build -f xcaddy.Dockerfile -t caddy-bff .
#   docker run --read-only -v bff_data:/data -v ./Caddyfile:/etc/caddy/Caddyfile:ro \
#     -v ./client_secret:/run/secrets/bff_client_secret:ro -p 80:80 -p 443:443 -p 443:443/udp caddy-bff
#
# It holds Caddyfile.example as its Caddyfile, so that the variables of that file are enough to try it.

ARG CADDY_VERSION=2.11.9
ARG GO_VERSION=1.26.8

FROM golang:${GO_VERSION}-alpine AS build
ARG CADDY_VERSION
# The Go of this image, and no other that a module may name.
ENV GOTOOLCHAIN=local
WORKDIR /src
COPY . .
# xcaddy in the version that tools/go.mod pins, with the checksums of tools/go.sum.
RUN go build -C tools -o /usr/local/bin/ github.com/caddyserver/xcaddy/cmd/xcaddy
# The module is this directory, whatever its version: naming one keeps Go from asking for the published ones.
RUN xcaddy build v${CADDY_VERSION} --output ./caddy --with github.com/caddy-bff/caddy-bff@v0.0.0=.

FROM caddy:${CADDY_VERSION}-alpine
# An ordinary user, with a number so that orchestrators can tell. What Caddy keeps, certificates, keys and sessions, is in
# /data: give it a volume. Nothing else is written to, so the root file system can be read-only.
RUN addgroup -g 10001 -S caddy \
	&& adduser -u 10001 -S -D -H -G caddy caddy \
	&& mkdir -p /data/caddy /config/caddy /srv/app \
	&& chown -R caddy:caddy /data /config
# Without file capabilities: with them the binary would not start where privileges must not be gained. Docker and
# Kubernetes with containerd let ordinary users bind ports 80 and 443; elsewhere set http_port and https_port.
COPY --from=build /src/caddy /usr/bin/caddy
COPY Caddyfile.example /etc/caddy/Caddyfile
VOLUME /data
EXPOSE 80 443 443/udp
USER 10001:10001
# Caddy's admin endpoint answers while the process is alive and has a configuration; it listens inside the container
# only. An outage of the authorization server does not make the container unhealthy.
HEALTHCHECK --interval=15s --timeout=5s --start-period=30s --retries=3 \
	CMD wget -q -O /dev/null http://127.0.0.1:2019/reverse_proxy/upstreams
CMD ["caddy", "run", "--config", "/etc/caddy/Caddyfile", "--adapter", "caddyfile"]
