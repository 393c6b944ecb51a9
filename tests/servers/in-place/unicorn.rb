listen ENV.fetch("ADDR")
pid File.join(ENV.fetch("SHIP_RUN_DIR"), "unicorn.pid")
working_directory ENV.fetch("CURRENT")
worker_processes 4
timeout 60
