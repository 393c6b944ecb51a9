//! What `shipctl init` writes.

use crate::name::AppName;

/// A commented `ship.toml` for `app`; it is valid as it stands, and publishes static files.
pub fn init_template(app: &AppName) -> String {
    TEMPLATE.replace("{app}", app.as_str())
}

const TEMPLATE: &str = r#"# What this release is. Unknown keys are errors; keys that begin with "x-" are yours.

app = "{app}"
# platform = ["linux/amd64"]         # hosts of another kind refuse it

# --- The process. Without one, the release is a set of static files. ---------------------------------
# [process.web]
# command = ["bin/server"]           # a path with a slash is inside the release
# class = "web"                      # hosts of this class run it
# listen = { http = "tcp:8080" }     # or "tcp:[::]:8080", "tcp:127.0.0.1:0", "udp:5353", "unix:web.sock"
# strategy = "listen-fds"            # it takes its sockets as LISTEN_FDS, as under systemd: the first is descriptor 3.
                                     # uvicorn: --fd 3; node: server.listen({ fd: 3 }); gunicorn: nothing to do
                                     # "bind-join": it binds by itself, and is given its socket then; "auto": either
                                     # others: "signal-reexec" and "signal-reload" with server = "nginx" (or "haproxy",
                                     # "unicorn", "gunicorn", "puma", "php-fpm"), "command" with upgrade = { install = […] },
                                     # "cut-over": hold = "10m" (or "keep") keeps the old one beside the new, to go back at once;
                                     # "stop-start": the old one is stopped first, and users meet a gap
# notify = true                      # only if it says READY=1 on NOTIFY_SOCKET
# probe = { http = "/healthz", times = 3, interval = "200ms", timeout = "1s" }   # or { tcp = true }
# ready_timeout = "30s"
# canary = { percent = 5, hold = "30s" }   # of a host's clients, by their addresses, so many come to it first, then twice
                                     # as many after each hold: 5, 10, 20, 40 and all. Who is in stays in. Behind a
                                     # balancer its address is the client's: there the waves of a rollout do this
# soak = "10s"                       # how long the old one stays warm after a switch
# drain = "30s"                      # how long it may finish what it has begun
# stop_signal = "TERM"
# stop_timeout = "10s"
# coexist = true                     # old and new run side by side for a moment; where there is no memory for two, the old one
                                     # is stopped first (false: always; "always": the update fails then)
# lock_wait = "10m"                  # while it holds a lock (flock) on the file SHIP_LOCK_FILE it is not replaced, for so long;
# lock_deadline = "fail"             # then the update fails, or with "go" it is replaced all the same
# overlap = false                    # a worker that ends before its successor starts
# user = "www-data"
# no_new_privs = true                # nothing it starts can gain privileges
# limits = { nofile = 65536, memory = "1GiB", pids = 500, cpu = 100 }   # of all it starts together; cpu is a weight, 1 to 10000
# env = { RAILS_ENV = "production" }  # besides, it finds where it listens: SHIP_LISTEN_HTTP=tcp:10.0.0.7:8080,
                                     # SHIP_IP_HTTP, SHIP_PORT_HTTP (or SHIP_PATH_HTTP)

# --- What browsers fetch. Names with a fingerprint (main.3f9a12bc.js) are kept of every release. ------
# [[assets]]
# root = "public"                    # folder of the release; static files alone may say "." for all of it
# url = "/static"                    # where pages ask for it; "/" alone is allowed
# mutable = ["index.html"]           # keep their name while their bytes change
# private = ["*.map"]                # in the release, and fetched by nobody

# --- Folders and files that outlive a release; the app writes nowhere else. --------------------------
# [shared]
# dirs = ["log", "tmp"]
# files = [".env"]

# --- Commands at the steps of a switch. The first two can refuse it; after a crash of ours one may run twice. ---
# [hooks]
# before_start = ["bin/check"]
# before_switch = ["bin/warm", "--all"]
# after_switch = [{ command = ["bin/tell"], timeout = "10s" }]
# before_stop = ["bin/pause"]        # of the release that stops, before it drains
# after_stop = ["bin/sweep"]
# after_failure = ["bin/complain"]

# [links]
# external = ["/usr/bin/python3"]    # links that may leave the release

# [retention]
# keep = 3                           # releases kept on hosts besides the running and the previous one
"#;
