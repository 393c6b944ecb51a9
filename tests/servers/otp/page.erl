-module(page).
-export([answer/1]).
-include("release.hrl").

answer("/healthz") when not ?HEALTHY -> {500, "sick"};
answer("/healthz") -> {200, "ok"};
answer("/release") -> {200, text(?RELEASE)};
answer("/count") ->
    {Release, Count} = counter:next(),
    {200, text(Count) ++ " in a state of release " ++ text(Release)};
answer(_) -> {200, "release " ++ text(?RELEASE)}.

text(Number) -> integer_to_list(Number).
