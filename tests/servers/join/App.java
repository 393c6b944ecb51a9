import com.sun.net.httpserver.HttpExchange;
import com.sun.net.httpserver.HttpServer;
import java.io.IOException;
import java.io.OutputStream;
import java.net.InetSocketAddress;
import java.util.concurrent.Executors;

/** The JDK's own server, which binds by itself and knows nothing of handed-over sockets. */
public final class App {
    private static final String BROKEN = System.getenv().getOrDefault("BROKEN", "");
    private static final byte[] RELEASE = System.getenv("SHIP_RELEASE").getBytes();

    public static void main(String[] arguments) throws IOException {
        if (BROKEN.equals("exit")) {
            throw new IllegalStateException("this release cannot start");
        }
        String[] place = System.getenv("ADDR").split(":");
        InetSocketAddress address = new InetSocketAddress(place[0], Integer.parseInt(place[1]));
        HttpServer server = HttpServer.create(address, 128);
        server.setExecutor(Executors.newCachedThreadPool());
        server.createContext("/", App::page);
        server.createContext("/stream", App::stream);
        server.start();
    }

    private static void page(HttpExchange exchange) throws IOException {
        boolean sick = exchange.getRequestURI().getPath().equals("/healthz") && BROKEN.equals("sick");
        exchange.getResponseHeaders().set("x-release", new String(RELEASE));
        exchange.sendResponseHeaders(sick ? 500 : 200, RELEASE.length);
        try (OutputStream body = exchange.getResponseBody()) {
            body.write(RELEASE);
        }
    }

    private static void stream(HttpExchange exchange) throws IOException {
        double seconds = Double.parseDouble(exchange.getRequestURI().getQuery().split("=")[1]);
        exchange.getResponseHeaders().set("x-release", new String(RELEASE));
        exchange.sendResponseHeaders(200, 0);
        try (OutputStream body = exchange.getResponseBody()) {
            for (int piece = 0; piece < seconds * 10; piece++) {
                body.write("a piece\n".getBytes());
                body.flush();
                Thread.sleep(100);
            }
        } catch (InterruptedException interrupted) {
            throw new IOException(interrupted);
        }
    }
}
