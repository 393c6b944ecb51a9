directory ENV.fetch("CURRENT")
bind "tcp://#{ENV.fetch("ADDR")}"
workers 2
threads 16, 16
environment "production"
worker_shutdown_timeout 20
