%% Holds a number, in a state that each release writes in its own way.
-module(counter).
-behaviour(gen_server).
-export([start_link/0, next/0]).
-export([init/1, handle_call/3, handle_cast/2, code_change/3]).
-include("release.hrl").

start_link() ->
    gen_server:start_link({local, ?MODULE}, ?MODULE, [], []).

%% One more, and the release whose state it is kept in.
next() ->
    gen_server:call(?MODULE, next).

init([]) ->
    {ok, {?RELEASE, 0}}.

handle_call(next, _From, {Release, Count}) ->
    {reply, {Release, Count + 1}, {Release, Count + 1}}.

handle_cast(_, State) ->
    {noreply, State}.

%% Downwards it is the newer release that writes as the older one reads.
code_change(_From, {_, Count}, For) when ?SOUND ->
    {ok, {For, Count}};
code_change(_From, State, _For) ->
    {error, {cannot_take_over, State}}.
