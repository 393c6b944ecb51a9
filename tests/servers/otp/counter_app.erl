-module(counter_app).
-behaviour(application).
-behaviour(supervisor).
-export([start/2, stop/1, init/1]).

start(_, _) -> supervisor:start_link(?MODULE, []).
stop(_) -> ok.

init([]) ->
    Worker = fun(Module) -> {Module, {Module, start_link, []}, permanent, 5000, worker, [Module]} end,
    {ok, {{one_for_one, 5, 10}, [Worker(counter), Worker(front), Worker(ship_relup)]}}.
