# Ship's drain contract for Rack (Puma, Unicorn, Falcon, ...): `use Ship::Drain` first of all in config.ru.
#
# Copy this file into the application. While SHIP_DRAIN_FILE exists, every answer carries `Connection: close`; the server
# then closes in order after it. A request that was running when the drain began counts. Outside of Ship it does nothing.
#
# WebSockets that were hijacked (Action Cable, faye) are out of Rack's sight: ask `Ship::Drain.draining?` in their timer, say
# every second, and close them with 1001 at a moment of their own within some seconds.
module Ship
  class Drain
    FILE = ENV["SHIP_DRAIN_FILE"]

    # Looks at most once every 100 ms; two threads that look at once do no harm.
    def self.draining?
      return false if FILE.nil? || FILE.empty?

      now = Process.clock_gettime(Process::CLOCK_MONOTONIC)
      if @looked.nil? || now - @looked >= 0.1
        @looked = now
        @there = File.exist?(FILE)
      end
      @there
    end

    def initialize(app)
      @app = app
    end

    def call(env)
      status, headers, body = @app.call(env)
      if Drain.draining? && status != 101
        headers = headers.reject { |name, _| name.casecmp?("connection") }.merge("connection" => "close")
      end
      [status, headers, body]
    end
  end
end
