# The app under test on a Rack server: pages and streams.
require_relative "drain"

# A process that lives on through releases keeps its environment: which release this is stands in its folder.
BROKEN = File.exist?("broken") ? File.read("broken") : ENV["BROKEN"]
RELEASE = File.exist?("release") ? File.read("release") : ENV.fetch("SHIP_RELEASE", "")
abort "this release cannot start" if BROKEN == "exit"

class Stream
  def initialize(seconds)
    @pieces = (seconds * 10).to_i
  end

  def each
    @pieces.times do
      yield "a piece\n"
      sleep 0.1
    end
    yield "the end\n"
  end
end

use Ship::Drain

run(lambda do |env|
  headers = { "x-release" => RELEASE, "content-type" => "text/plain" }
  if env["PATH_INFO"] == "/stream"
    [200, headers, Stream.new(env["QUERY_STRING"][/seconds=([\d.]+)/, 1].to_f)]
  else
    sick = env["PATH_INFO"] == "/healthz" && BROKEN == "sick"
    [sick ? 500 : 200, headers.merge("content-length" => "3"), ["ok\n"]]
  end
end)
