%% Lets Ship upgrade this node while it runs: listens on a Unix socket in SHIP_RUN_DIR for what `bin/relup` asks.
%% Put `{relup, {ship_relup, start_link, []}, permanent, 5000, worker, [ship_relup]}` into your top supervisor.
%% It needs sasl, and no distribution: no cookie, no epmd, no port. Who may enter SHIP_RUN_DIR may upgrade.
-module(ship_relup).
-export([start_link/0, init/1, path/0]).

start_link() ->
    proc_lib:start_link(?MODULE, init, [self()]).

path() ->
    filename:join(os:getenv("SHIP_RUN_DIR"), os:getenv("SHIP_PROCESS", "app") ++ ".relup").

init(Parent) ->
    _ = file:delete(path()),
    {ok, Listener} = gen_tcp:listen(0, [binary, {ifaddr, {local, path()}}, {packet, 4}, {active, false}]),
    proc_lib:init_ack(Parent, {ok, self()}),
    serve(Listener).

serve(Listener) ->
    {ok, Socket} = gen_tcp:accept(Listener),
    case gen_tcp:recv(Socket, 0, 5000) of
        {ok, Bytes} ->
            Answer = try do(binary_to_term(Bytes, [safe])) catch _:Reason -> {error, Reason} end,
            _ = gen_tcp:send(Socket, term_to_binary(Answer));
        {error, _} -> ok
    end,
    gen_tcp:close(Socket),
    serve(Listener).

%% A release whose files lie in Dir is made known, its files are put below RELDIR, and the node becomes it.
do({install, Dir, Vsn}) ->
    Files = filename:join([Dir, "releases", Vsn]),
    [Rel] = filelib:wildcard(filename:join(Files, "*.rel")),
    Libs = [own(Lib) || Lib <- filelib:wildcard(filename:join([Dir, "lib", "*"]))],
    case release_handler:set_unpacked(Rel, Libs) of
        {ok, Vsn} -> ok;
        %% It has run before.
        {error, {existing_release, Vsn}} -> ok
    end,
    [ok = release_handler:install_file(Vsn, File)
     || Name <- ["start.boot", "sys.config", "relup"],
        File <- [filename:join(Files, Name)],
        filelib:is_regular(File)],
    %% Half an upgrade is none: the node ends, and Ship starts the release from its own beginning.
    case release_handler:install_release(Vsn, [{error_action, reboot}]) of
        {ok, _, _} -> ok;
        {error, {already_installed, Vsn}} -> ok;
        {error, _} = Error -> Error
    end;
%% From now on a restart of the node's own comes back as this release.
do({permanent, Vsn}) ->
    release_handler:make_permanent(Vsn).

own(Lib) ->
    [Vsn | Name] = lists:reverse(string:split(filename:basename(Lib), "-", all)),
    {list_to_atom(lists:flatten(lists:join("-", lists:reverse(Name)))), Vsn, filename:dirname(Lib)}.
