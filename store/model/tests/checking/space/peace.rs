//! Where a search begins, and what becomes of every state when the faults stop.

use super::*;

impl Fleet {
    /// Two releases ran well, the newer one runs; nothing is under way.
    pub(super) fn settled(&mut self) -> World {
        let env = EnvName::new("prod").expect("a name");
        let state = EnvState::new(env.clone(), self.app.clone());
        let ledger = self.machine.states.id(canonical(state, 0, UNIT));
        let nobody = self.minds.id(Mind(vec![Presence::default(); self.count()]));
        let controller = Controller {
            cache: ledger,
            mind: nobody,
        };
        let host = self.hosts.all.id(Host::new(env));
        let mut world = World {
            ledger,
            controllers: [controller; 2],
            hosts: [host; HOSTS],
            mail: self.mail.id(Vec::new()),
            budget: Budget::default(),
            standings: Standings::default(),
        };
        let mutant = self.machine.mutant.take();
        let without = self.hosts.without.take();
        for number in [1, 2] {
            self.newest = number;
            for at in 0..self.count() {
                self.hear(&mut world, 0, at).expect("nothing is wrong yet");
            }
            let wish = Wish::Promote {
                release: Some(ReleaseNumber(number)),
            };
            let plan = self.plan(&world, 0, wish, false).expect("it can be planned");
            self.handle(&mut world, 0, &[Happens::Start(plan)], false)
                .expect("nothing is wrong yet");
            self.peace(&mut world, Lasting::Nothing).expect("it ends");
        }
        // Whoever begins after that knows what stands; both have heard everybody.
        world.controllers[1] = Controller {
            cache: world.ledger,
            mind: nobody,
        };
        for controller in 0..2 {
            for at in 0..self.count() {
                self.hear(&mut world, controller, at)
                    .expect("nothing is wrong yet");
            }
        }
        self.newest = 3;
        self.forget_answers();
        self.machine.mutant = mutant;
        self.hosts.without = without;
        world.budget = Budget::of(&self.setting.limits);
        world.standings = Standings::of(&self.setting.limits);
        world
    }

    /// What was computed without the mutant is asked again with it.
    pub(super) fn forget_answers(&mut self) {
        self.machine.forget();
        self.hosts.forget();
        self.ends.clear();
    }

    /// The faults stop, but for what is lasting: one controller begins anew, everybody is heard and told, switches end well,
    /// time goes on.
    pub(super) fn peace(&mut self, world: &mut World, lasting: Lasting) -> Verdict {
        let nobody = self.minds.id(Mind(vec![Presence::default(); self.count()]));
        world.controllers[0] = Controller {
            cache: world.ledger,
            mind: nobody,
        };
        for _ in 0..60 {
            for at in 0..self.count() {
                if at == 0 && lasting == Lasting::Silent {
                    self.falls_silent(world, 0, at)?;
                    continue;
                }
                if at == 0 && lasting == Lasting::Hangs {
                    self.hear(world, 0, at)?;
                    continue;
                }
                self.tell(world, 0, at)?;
                for _ in 0..12 {
                    let ended = self.on_host(world, at, OnHost::SwitchEnds { well: true })?;
                    if !self.on_host(world, at, OnHost::Works)? && !ended {
                        break;
                    }
                }
                self.hear(world, 0, at)?;
            }
            let ledger = self.machine.states.get(world.ledger);
            if ledger.running().is_some_and(|rollout| rollout.paused.is_some()) {
                self.handle(world, 0, &[Happens::Resume], false)?;
            }
            if self.is_at_a_gate(world.ledger) {
                self.handle(world, 0, &[Happens::GateSays(0), Happens::Approves(1)], false)?;
            }
            self.handle(world, 0, &[Happens::Tick], false)?;
            let ledger = self.machine.states.get(world.ledger);
            if ledger.running().is_none() && self.all_rest(world, lasting) {
                return Ok(());
            }
            world.ledger = self.machine.later(world.ledger);
            world.controllers[0].cache = world.ledger;
        }
        let ledger = self.machine.states.get(world.ledger);
        let course = ledger
            .rollout
            .as_ref()
            .map(|rollout| (rollout.course, &rollout.hosts));
        must(Property::Ends, false, || {
            format!("never comes to rest, {lasting:?}: {course:?}")
        })
    }

    pub(super) fn all_rest(&self, world: &World, lasting: Lasting) -> bool {
        let first = usize::from(lasting != Lasting::Nothing);
        (first..self.count()).all(|at| self.rests(world, at))
    }

    /// Runs what it should, or was put elsewhere by hand, or has said why not.
    pub(super) fn rests(&self, world: &World, at: usize) -> bool {
        let host = self.hosts.all.get(world.hosts[at]);
        let ledger = self.machine.states.get(world.ledger);
        let told = ledger.hosts.get(&self.machine.names[at]);
        let run = told.and_then(|told| told.run.filter(|_| told.runs_app));
        let heard = told.is_none_or(|told| told.epoch == host.memory.epoch);
        heard && (host.memory.held.is_some() || host.running == run || host.memory.failure.is_some())
    }
}
