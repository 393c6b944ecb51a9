#!/bin/sh
# nginx as a release like any other: each generation is an nginx of its own on the sockets that Ship hands over, so that a
# configuration that is wrong, or serves nothing good, never meets a user, and the one before is back in an instant.
#
#   [process.web]
#   command = ["sh", "nginx.sh"]            # this file; reads nginx.conf.in from the release
#   stop_signal = "QUIT"
#   [process.web.listen]                    # one name: SHIP_IP_HTTP and SHIP_PORT_HTTP below are those of "http"
#   http = "tcp:0.0.0.0:80"
#
# nginx has no way to read a variable into its configuration, so four words of `nginx.conf.in` are replaced here:
#   @LISTEN_HTTP@   in `listen @LISTEN_HTTP@;`: nginx takes the socket that was handed over when the address is the same
#   @DRAIN_FILE@    there while this generation leaves (see nginx.conf.in beside this file)
#   @HERE@          the release's folder, for `include @HERE@/site.conf;`: nginx would look beside the replaced file
#   @PREFIX@        a path of this generation for what nginx writes: `pid @PREFIX@.pid;`
# The sockets come by NGINX=3;4; as nginx hands them to itself in its binary upgrade (nginx.org/en/docs/control.html).
set -eu
prefix=$SHIP_RUN_DIR/nginx-${SHIP_DRAIN_FILE##*/}
case ${SHIP_IP_HTTP} in
*:*) address="[$SHIP_IP_HTTP]:$SHIP_PORT_HTTP" ;;
*) address=$SHIP_IP_HTTP:$SHIP_PORT_HTTP ;;
esac
# Generations have numbers of their own: what earlier ones left here is nobody's any more when its process is gone.
for old in "$SHIP_RUN_DIR"/nginx-*.pid; do
    if [ -f "$old" ] && ! kill -0 "$(cat "$old")" 2>/dev/null; then rm -f "$old" "${old%.pid}.conf"; fi
done
sed -e "s|@LISTEN_HTTP@|$address|g" -e "s|@DRAIN_FILE@|$SHIP_DRAIN_FILE|g" -e "s|@PREFIX@|$prefix|g" -e "s|@HERE@|$PWD|g" \
    nginx.conf.in >"$prefix.conf"
NGINX=
fd=3
while [ "$fd" -lt $((3 + LISTEN_FDS)) ]; do
    NGINX="$NGINX$fd;"
    fd=$((fd + 1))
done
export NGINX
exec nginx -p "$PWD" -c "$prefix.conf" -g "daemon off;"
