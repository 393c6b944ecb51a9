worker_processes 6
timeout 60
