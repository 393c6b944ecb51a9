//! What may happen next, one thing at a time.

use super::*;

impl Fleet {
    pub(super) fn ticks(&mut self, world: &World, at: usize, found: &mut Found) -> Verdict {
        let running = |fleet: &Self| {
            let cache = fleet.machine.states.get(world.controllers[at].cache);
            cache.running().is_some()
        };
        if !running(self) {
            return Ok(());
        }
        let tick = Label::Ticks {
            controller: at,
            back: false,
        };
        self.add(world, tick, found, |fleet, next| {
            fleet.handle(next, at, &[Happens::Tick], false)
        })?;
        if let Some(budget) = world.budget.spend(Dimension::ClockBack) {
            let tick = Label::Ticks {
                controller: at,
                back: true,
            };
            self.add(world, tick, found, |fleet, next| {
                next.budget = budget;
                fleet.handle(next, at, &[Happens::Tick], true)
            })?;
        }
        Ok(())
    }

    pub(super) fn operator(&mut self, world: &World, at: usize, found: &mut Found) -> Verdict {
        let knows_all = self.knows_all(world, at);
        for wish in [Dimension::Promote, Dimension::PromoteAgain, Dimension::Revert] {
            let Some(budget) = world.budget.spend(wish).filter(|_| knows_all) else {
                continue;
            };
            let label = Label::Operator { controller: at, wish };
            let before = found.len();
            self.add(world, label, found, |fleet, next| {
                next.budget = budget;
                fleet.start(next, at, wish)
            })?;
            // A wish that was refused is as if it had not been made.
            let refused = found[before..].first().is_some_and(|(_, key)| {
                let next = World::of(key);
                World {
                    budget: world.budget,
                    ..next
                } == *world
            });
            if refused {
                found.truncate(before);
            }
            self.late_plan(world, at, wish, found);
        }
        let running = self.machine.states.get(world.controllers[at].cache);
        let running = running.running().map(|rollout| rollout.paused.is_some());
        let Some(paused) = running else { return Ok(()) };
        for (wish, event) in [
            (Dimension::Abort, Happens::Abort),
            (Dimension::Pause, Happens::Pause),
        ] {
            let Some(budget) = world.budget.spend(wish) else {
                continue;
            };
            let label = Label::Operator { controller: at, wish };
            self.add(world, label, found, |fleet, next| {
                next.budget = budget;
                fleet.handle(next, at, &[event], false)
            })?;
        }
        if paused {
            self.add(world, Label::Resumes { controller: at }, found, |fleet, next| {
                fleet.handle(next, at, &[Happens::Resume], false)
            })?;
        }
        Ok(())
    }

    /// Whatever a check may come to, and whoever may approve, at any time.
    pub(super) fn gates(&mut self, world: &World, at: usize, found: &mut Found) -> Verdict {
        if !self.is_at_a_gate(world.controllers[at].cache) {
            return Ok(());
        }
        let says = (0..VERDICTS.len()).map(|verdict| Happens::GateSays(verdict as u8));
        let approves = (0..OPERATORS.len()).map(|operator| Happens::Approves(operator as u8));
        for happens in says.chain(approves) {
            let label = Label::AtTheGate {
                controller: at,
                happens,
            };
            self.add(world, label, found, |fleet, next| {
                fleet.handle(next, at, &[happens], false)
            })?;
        }
        Ok(())
    }

    /// What operators want of a host is written down, and its controller makes of it what follows.
    pub(super) fn standings(&mut self, world: &World, at: usize, found: &mut Found) -> Verdict {
        for host in 0..self.setting.hosts {
            let asked = [
                (world.standings.turn(host), Label::Drains { controller: at, host }),
                (
                    world.standings.retire(host),
                    Label::Retires { controller: at, host },
                ),
            ];
            for (standings, label) in asked {
                let Some(standings) = standings.filter(|_| !world.standings.retiring(host)) else {
                    continue;
                };
                self.add(world, label, found, |fleet, next| {
                    next.standings = standings;
                    let news = fleet.news(next, at, std::iter::once(host));
                    fleet.handle(next, at, &news, false)
                })?;
            }
        }
        Ok(())
    }

    pub(super) fn is_at_a_gate(&self, state: u32) -> bool {
        let state = self.machine.states.get(state);
        state
            .running()
            .is_some_and(|rollout| rollout.present_gates().is_some())
    }

    /// A plan is made now and begun later.
    fn late_plan(&mut self, world: &World, at: usize, wish: Dimension, found: &mut Found) {
        let budget = world.budget.spend(Dimension::LatePlan);
        let budget = budget.and_then(|budget| budget.spend(wish));
        let Some(budget) = budget else { return };
        let (wish, force) = Self::wish(wish);
        if let Some(plan) = self.plan(world, at, wish, force) {
            let held = OnItsWay::Plan { to: at, plan };
            self.hold_back(World { budget, ..*world }, held, found);
        }
    }

    fn hold_back(&mut self, mut world: World, held: OnItsWay, found: &mut Found) {
        let mut mail = Vec::clone(&self.mail.get(world.mail));
        mail.push(held);
        mail.sort();
        world.mail = self.mail.id(mail);
        found.push((Label::HoldsBack(held), world.key()));
    }

    pub(super) fn messages(&mut self, world: &World, found: &mut Found) -> Verdict {
        let mail = self.mail.get(world.mail);
        for (place, late) in mail.iter().enumerate() {
            let mut rest = Vec::clone(&mail);
            rest.remove(place);
            let rest = self.mail.id(rest);
            self.add(world, Label::Late(*late), found, |fleet, next| {
                next.mail = rest;
                match *late {
                    OnItsWay::Report { to, host, report } => fleet.hear_report(next, to, host, report),
                    OnItsWay::Word { host, word } => fleet.on_host(next, host, OnHost::Hears(word)).map(drop),
                    OnItsWay::Plan { to, plan } => fleet.begin(next, to, plan),
                }
            })?;
        }
        if let Some(budget) = world.budget.spend(Dimension::HeldReport) {
            for to in 0..self.setting.controllers {
                for host in 0..self.count() {
                    let report = self.report(world.hosts[host]);
                    let held = OnItsWay::Report { to, host, report };
                    self.hold_back(World { budget, ..*world }, held, found);
                }
            }
        }
        if let Some(budget) = world.budget.spend(Dimension::HeldWord) {
            for host in 0..self.count() {
                if let Some(word) = self.machine.word(world.ledger, host) {
                    let held = OnItsWay::Word { host, word };
                    self.hold_back(World { budget, ..*world }, held, found);
                }
            }
        }
        Ok(())
    }

    pub(super) fn host(&mut self, world: &World, at: usize, found: &mut Found) -> Verdict {
        let always = [OnHost::Works, OnHost::SwitchEnds { well: true }];
        for what in always {
            self.add(world, Label::Host { host: at, what }, found, |fleet, next| {
                fleet.on_host(next, at, what).map(drop)
            })?;
        }
        let word = self.machine.word(world.ledger, at);
        let faults = [
            (Dimension::SwitchFails, Some(OnHost::SwitchEnds { well: false })),
            (Dimension::AgentCrash, Some(OnHost::AgentCrashes)),
            (Dimension::AppCrash, Some(OnHost::AppCrashes)),
            (Dimension::AppCrash, Some(OnHost::FallsIll)),
            (Dimension::HandRevert, Some(OnHost::RevertedByHand)),
            (Dimension::Foreign, word.map(OnHost::HearsForeign)),
        ];
        for (dimension, what) in faults {
            let (Some(budget), Some(what)) = (world.budget.spend(dimension), what) else {
                continue;
            };
            let mut next = *world;
            if self.on_host(&mut next, at, what)? {
                next.budget = budget;
                found.push((Label::Host { host: at, what }, next.key()));
            }
        }
        Ok(())
    }
}
