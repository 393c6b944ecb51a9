%% Listens, and stays what it is through all releases: what they answer is `page`'s.
-module(front).
-export([start_link/0, init/1, accept/1]).

start_link() ->
    proc_lib:start_link(?MODULE, init, [self()]).

init(Parent) ->
    {ok, Ip} = inet:parse_address(os:getenv("SHIP_IP_HTTP")),
    Port = list_to_integer(os:getenv("SHIP_PORT_HTTP")),
    Options = [binary, {ip, Ip}, {packet, http_bin}, {active, false}, {reuseaddr, true}, {backlog, 512}, {nodelay, true}],
    {ok, Listener} = gen_tcp:listen(Port, Options),
    [spawn_link(?MODULE, accept, [Listener]) || _ <- lists:seq(1, 8)],
    proc_lib:init_ack(Parent, {ok, self()}),
    receive never -> ok end.

accept(Listener) ->
    {ok, Socket} = gen_tcp:accept(Listener),
    Pid = spawn(fun() -> receive go -> requests(Socket) end end),
    ok = gen_tcp:controlling_process(Socket, Pid),
    Pid ! go,
    accept(Listener).

requests(Socket) ->
    case gen_tcp:recv(Socket, 0) of
        {ok, {http_request, _, {abs_path, Path}, _}} ->
            Last = headers(Socket, false),
            {Status, Body} = page:answer(binary_to_list(Path)),
            {_, Release} = page:answer("/release"),
            ok = gen_tcp:send(Socket, [
                io_lib:format("HTTP/1.1 ~p X\r\nx-release: ~s\r\ncontent-type: text/plain\r\n", [Status, Release]),
                io_lib:format("content-length: ~p\r\n\r\n", [length(Body)]), Body]),
            if Last -> gen_tcp:close(Socket); true -> requests(Socket) end;
        _ -> gen_tcp:close(Socket)
    end.

%% Whether the client wants no other answer on this connection.
headers(Socket, Last) ->
    case gen_tcp:recv(Socket, 0) of
        {ok, http_eoh} -> Last;
        {ok, {http_header, _, 'Connection', _, Value}} -> headers(Socket, string:lowercase(Value) =:= <<"close">>);
        {ok, {http_header, _, _, _, _}} -> headers(Socket, Last)
    end.
