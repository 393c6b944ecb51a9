//! How an environment goes from one release to another, and back.
//!
//! [`plan()`] compares what runs, who is there and what was asked, and gives an immutable [`Plan`] or a typed
//! refusal. [`step()`] carries a plan out: `(state, event, now) → (state, effects)`. The caller stores the
//! returned [`EnvState`] by compare-and-swap and only then performs the effects; a controller that dies in
//! between loses announcements at most, because what hosts should do is in the state itself. A step that
//! changes nothing returns an equal state and need not be stored: heartbeats are not journalled.
//!
//! ```text
//! promote  check → prefetch everywhere → asset barrier → one host → gates → the rest, batch by batch → done
//!                        │ a host fails: nothing was switched      │ a host or a gate fails, or a deadline passes
//!                        └──────────────▶ failed                   └──▶ touched hosts go back → reverted
//! revert   check → all hosts, in batches that keep enough serving → done, and sticky
//! ```
//!
//! What is true whatever happens, tested after every step of random histories: the epoch only grows; no app
//! host is switched before every required host serves the new assets; no more hosts are switched at once
//! than policy allows; a silent host is neither switched nor counted as healthy; no step behind a gate begins
//! before the gate is open; a rollout turns back at most once; when the faults stop, and people answer, it ends.

mod anew;
mod drift;
pub mod event;
mod forecast;
pub mod gates;
pub mod hosts;
pub mod plan;
mod plan_file;
mod planning;
pub mod policy;
pub mod state;
mod step;
mod took;
pub mod view;

pub use anew::{Anew, anew};
pub use drift::{Drift, drift};
pub use event::{Effect, Event, Happening, RolloutEvent, StartRefused};
pub use forecast::{Forecast, GoingBack, NoReturn, StepForecast, forecast, takes};
pub use gates::{
    Answer, AnswerWord, Ask, Expect, Figure, Gate, GateLine, GateProgress, GateState, JsonTest, Pace,
    PersonWord, Verdict,
};
pub use hosts::{HostView, Thresholds};
pub use plan::{
    ByteShare, Content, Excuse, Plan, PlanRefused, PlanStep, PlannedHost, ReleaseInfo, Request, Wish,
};
pub use plan_file::{MAX_PLAN_FILE, PlanFileError, read_plan, write_plan};
pub use planning::{ASSET_CLASS, plan, plan_again};
pub use policy::{Amount, Policy, Profile, WayStep};
pub use state::{
    BadRelease, Course, DeployEntry, DeployKind, End, EnvState, Hold, HostProgress, HostTarget, Incidents,
    Outcome, Rollout, StepTime, Stop, Switch,
};
pub use step::{step, step_all};
pub use took::{Took, record_times};
pub use view::{HostLine, RolloutView, StepState, StepView, preview, view};
