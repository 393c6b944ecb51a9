//! The ground floor: every rule of Ship that needs no clock, no disk and no network.
//!
//! * [`digest`], [`name`], [`path`]: checked values, refused where they are born.
//! * [`manifest`]: what a release consists of, and the canonical bytes its id is the hash of.
//! * [`spec`]: the checked meaning of a `ship.toml`.
//! * [`release`]: numbers, references (`web@455`) and the record kept beside a release.
//! * [`desired`], [`report`], [`host`]: what a host should run, what it says it runs, what we think of it.
//! * [`figures`]: what hosts count, as text for graphs.
//! * [`assets`]: which files browsers fetch, and which of them never change; [`retention`]: how long those are kept.
//! * [`mirror`], [`leaves`], [`spread`], [`allowance`]: where content is had besides the store, how its parts are checked,
//!   shared between hosts, and held back.
//! * [`converge`]: what a host does next.
//! * [`environment`]: the checked meaning of a `ship.ENV.toml`: the way of a promote through an environment, and its policy.
//! * [`rollout`]: what an environment runs, the plan to change it, and the machine that carries it out.
//!
//! Nothing here may read the time, the environment, a file or a socket, and nothing here is random: the
//! same input gives the same output on every machine, which is what lets the controller, the simulator
//! and the tests share this code.

#![forbid(unsafe_code)]

pub mod allowance;
pub mod assets;
pub mod converge;
pub mod desired;
pub mod digest;
pub mod environment;
pub mod figures;
pub mod host;
pub mod leaves;
pub mod manifest;
pub mod mirror;
pub mod name;
pub mod path;
pub mod release;
pub mod report;
pub mod retention;
pub mod rollout;
pub mod spec;
pub mod spread;
