//! What controllers do: the store's conductor, over numbered parts.

use super::*;

impl Fleet {
    pub(super) fn report(&mut self, host: u32) -> u32 {
        if let Some(known) = self.reports.get(&host) {
            return *known;
        }
        let report = self.hosts.all.get(host).report(&self.app);
        let id = self.machine.reports.id(report);
        self.reports.insert(host, id);
        id
    }

    pub(super) fn presence(&self, world: &World, controller: usize, host: usize) -> Presence {
        self.minds.get(world.controllers[controller].mind).0[host]
    }

    pub(super) fn believe(&mut self, world: &mut World, controller: usize, host: usize, presence: Presence) {
        let mut mind = Mind::clone(&self.minds.get(world.controllers[controller].mind));
        mind.0[host] = presence;
        world.controllers[controller].mind = self.minds.id(mind);
    }

    /// What a controller makes of its hosts: for each, that it is there, and what it says or that it does not.
    pub(super) fn news(
        &self,
        world: &World,
        controller: usize,
        hosts: impl Iterator<Item = usize>,
    ) -> Vec<Happens> {
        let state = self.machine.states.get(world.controllers[controller].cache);
        let mut news = Vec::new();
        for at in hosts {
            let (place, presence) = (at as u8, self.presence(world, controller, at));
            if world.standings.retiring(at) {
                news.push(Happens::Retiring(place));
                continue;
            }
            if self.setting.drains() {
                news.push(Happens::Drained(place, world.standings.drained(at)));
            }
            if state.current.is_some() {
                news.push(Happens::Joined(place));
            }
            match presence {
                Presence { silent: true, .. } => news.push(Happens::Silent(place)),
                Presence {
                    report: Some(report), ..
                } => news.push(Happens::Report(place, report)),
                Presence { .. } => {}
            }
        }
        news
    }

    pub(super) fn hear(&mut self, world: &mut World, controller: usize, host: usize) -> Verdict {
        let report = self.report(world.hosts[host]);
        self.hear_report(world, controller, host, report)
    }

    pub(super) fn hear_report(
        &mut self,
        world: &mut World,
        controller: usize,
        host: usize,
        report: u32,
    ) -> Verdict {
        let presence = Presence {
            report: Some(report),
            silent: false,
        };
        let before = self.presence(world, controller, host);
        self.believe(world, controller, host, presence);
        if before == presence || !before.silent && self.says_the_same(before.report, report) {
            return Ok(());
        }
        let news = self.news(world, controller, std::iter::once(host));
        self.handle(world, controller, &news, false)
    }

    /// A controller is not bothered with what it knows.
    pub(super) fn says_the_same(&self, one: Option<u32>, other: u32) -> bool {
        let Some(one) = one else { return false };
        let (one, other) = (self.machine.reports.get(one), self.machine.reports.get(other));
        AppReport::says_the_same(&one, &other)
    }

    /// Steps, stores by compare-and-swap, and steps again on a conflict.
    pub(super) fn handle(&mut self, world: &mut World, at: usize, events: &[Happens], back: bool) -> Verdict {
        let mutant = self.machine.mutant.as_ref();
        let blind = mutant.is_some_and(|mutant| mutant.blind);
        let deaf = mutant.is_some_and(|mutant| mutant.deaf);
        let forgets = mutant.is_some_and(|mutant| mutant.forgets);
        if let ([first, rest @ ..], true) = (events, mutant.is_some_and(|mutant| mutant.hasty))
            && !rest.is_empty()
        {
            self.handle(world, at, &[*first], back)?;
            return self.handle(world, at, rest, back);
        }
        let cache = world.controllers[at].cache;
        let next = self.machine.step(cache, events, back)?;
        if next == cache {
            return Ok(());
        }
        if cache != world.ledger && !blind {
            world.controllers[at].cache = world.ledger;
            // What was heard is looked at again, by what stands now.
            let all = if deaf { 0..0 } else { 0..self.count() };
            let mut anew = self.news(world, at, all);
            let is_news = |event: &Happens| {
                matches!(
                    event,
                    Happens::Report(..)
                        | Happens::Silent(_)
                        | Happens::Joined(_)
                        | Happens::Drained(..)
                        | Happens::Retiring(_)
                )
            };
            anew.extend(events.iter().filter(|event| deaf || !is_news(event)));
            return self.handle(world, at, &anew, back);
        }
        self.stored(world, at, next)?;
        let again = anew(&self.machine.states.get(cache), &self.machine.states.get(next));
        let again: Vec<usize> = match again {
            _ if forgets => Vec::new(),
            Anew::All => (0..self.count()).collect(),
            Anew::Hosts(hosts) => {
                let all = self.machine.names.iter().enumerate();
                all.filter(|(_, name)| hosts.contains(name))
                    .map(|(at, _)| at)
                    .collect()
            }
        };
        if again.is_empty() {
            return Ok(());
        }
        let news = self.news(world, at, again.into_iter());
        self.handle(world, at, &news, back)
    }

    /// A record stands in the ledger.
    pub(super) fn stored(&mut self, world: &mut World, at: usize, next: u32) -> Verdict {
        let (ledger, before) = (
            self.machine.states.get(world.ledger),
            self.machine.states.get(world.controllers[at].cache),
        );
        let after = self.machine.states.get(next);
        replaces(&ledger, &after)?;
        let silent: BTreeSet<_> = (0..self.count())
            .filter(|host| (0..self.setting.controllers).all(|one| self.presence(world, one, *host).silent))
            .map(|host| self.machine.names[host].clone())
            .collect();
        silent_are_left_alone(&before, &after, &silent)?;
        let names = || self.machine.names.iter().enumerate();
        let drained = names().filter(|(host, _)| world.standings.drained(*host));
        let retiring = names().filter(|(host, _)| world.standings.retiring(*host));
        standings_hold(
            &before,
            &after,
            &drained.map(|(_, name)| name.clone()).collect(),
            &retiring.map(|(_, name)| name.clone()).collect(),
        )?;
        nothing_overlooked(&before, &after, |name| {
            let host = self.machine.names.iter().position(|known| known == name)?;
            let presence = self.presence(world, at, host);
            let report = presence.report.filter(|_| !presence.silent)?;
            Some(AppReport::clone(&self.machine.reports.get(report)))
        })?;
        self.back_means_back(world, &before, &after)?;
        self.prefetched(world, &before, &after)?;
        world.ledger = next;
        world.controllers[at].cache = next;
        self.tell_of(|_| brief(&after));
        Ok(())
    }

    pub(super) fn prefetched(&self, world: &World, before: &EnvState, after: &EnvState) -> Verdict {
        let (Some(was), Some(rollout)) = (before.rollout.as_ref(), after.rollout.as_ref()) else {
            return Ok(());
        };
        if was.deploy != rollout.deploy || rollout.plan.kind == DeployKind::Revert {
            return Ok(());
        }
        let asked = newly_asked(was, rollout);
        let asked = self
            .machine
            .names
            .iter()
            .enumerate()
            .filter(|(_, name)| asked.contains(name));
        for (at, name) in asked {
            let host = self.hosts.all.get(world.hosts[at]);
            let has = host.staged.contains(&rollout.plan.to);
            must(Property::PrefetchedFirst, has, || {
                format!("{name} is asked and has not got the release")
            })?;
        }
        Ok(())
    }

    pub(super) fn back_means_back(&self, world: &World, before: &EnvState, after: &EnvState) -> Verdict {
        let (Some(was), Some(rollout)) = (before.rollout.as_ref(), after.rollout.as_ref()) else {
            return Ok(());
        };
        for (at, name) in self.machine.names.iter().enumerate() {
            let asked = was
                .hosts
                .get(name)
                .is_some_and(|host| matches!(host.switch, Switch::BackAsked { .. }));
            let back = rollout
                .hosts
                .get(name)
                .is_some_and(|host| host.switch == Switch::Back);
            let switching = self.hosts.all.get(world.hosts[at]).switching;
            let on_its_way = switching.is_some_and(|order| order.target == rollout.plan.to);
            must(Property::BackMeansBack, !(asked && back && on_its_way), || {
                format!(
                    "{name} counts as back and is on its way to {}",
                    rollout.plan.to.number
                )
            })?;
        }
        Ok(())
    }

    pub(super) fn views(&self, world: &World, controller: usize) -> Vec<HostView> {
        let state = self.machine.states.get(world.controllers[controller].cache);
        let mind = self.minds.get(world.controllers[controller].mind);
        let names = self.machine.names.iter().enumerate();
        names
            .map(|(at, name)| {
                let presence = mind.0[at];
                let report = presence.report.map(|report| self.machine.reports.get(report));
                let run = state.hosts.get(name).and_then(|target| target.run);
                let well = report
                    .as_ref()
                    .is_some_and(|report| report.running == run && report.healthy);
                HostView {
                    name: name.clone(),
                    state: match (presence.silent, well) {
                        _ if world.standings.retiring(at) => HostState::Retiring,
                        (true, _) => HostState::Uncertain,
                        (false, true) => HostState::Available,
                        (false, false) => HostState::Upgrading,
                    },
                    classes: vec![
                        ClassName::new(if self.machine.runs[at] { "web" } else { "assets" }).expect("a name"),
                    ],
                    platform: None,
                    last_seen_ms: report.as_ref().map(|_| 0),
                    last_report: report.map(|report| HostReport {
                        apps: vec![AppReport::clone(&report)],
                        ..HostReport::default()
                    }),
                    drained: world.standings.drained(at),
                    bytes: None,
                }
            })
            .collect()
    }

    /// A plan by what a controller knows; none when it is refused.
    pub(super) fn plan(&mut self, world: &World, controller: usize, wish: Wish, force: bool) -> Option<u32> {
        let state = self.machine.states.get(world.controllers[controller].cache);
        let views = self.views(world, controller);
        let seen = views.iter().filter_map(|view| view.last_report.as_ref());
        let newest = seen.flat_map(|report| &report.apps).map(|app| app.epoch).max();
        // A store that is behind its hosts leads nobody.
        if newest > Some(state.epoch) {
            return None;
        }
        let request = Request {
            wish,
            force,
            message: None,
            without: BTreeSet::new(),
        };
        let newest = ReleaseNumber(self.newest);
        let published = self.releases.range(..=newest);
        let published = published.map(|(number, info)| (*number, info.clone())).collect();
        let made: Plan = plan(&state, &views, &published, &request, &self.machine.policy).ok()?;
        Some(self.machine.plans.id(made))
    }

    /// Whether every host was heard or is known to be silent: planning waits for that.
    pub(super) fn knows_all(&self, world: &World, controller: usize) -> bool {
        let mind = self.minds.get(world.controllers[controller].mind);
        mind.0
            .iter()
            .all(|presence| presence.silent || presence.report.is_some())
    }

    pub(super) fn wish(wish: Dimension) -> (Wish, bool) {
        match wish {
            Dimension::Revert => (Wish::Revert { to: None }, false),
            other => {
                let release = Some(ReleaseNumber(3));
                (Wish::Promote { release }, other == Dimension::PromoteAgain)
            }
        }
    }

    /// An operator's wish, planned anew on what stands when another was first.
    pub(super) fn start(&mut self, world: &mut World, controller: usize, wish: Dimension) -> Verdict {
        let (wish, force) = Self::wish(wish);
        for _ in 0..2 {
            let Some(plan) = self.plan(world, controller, wish, force) else {
                return Ok(());
            };
            let cache = world.controllers[controller].cache;
            if cache != world.ledger && self.machine.mutant.as_ref().is_none_or(|mutant| !mutant.blind) {
                world.controllers[controller].cache = world.ledger;
                if self.machine.mutant.as_ref().is_none_or(|mutant| !mutant.deaf) {
                    let all = self.news(world, controller, 0..self.count());
                    self.handle(world, controller, &all, false)?;
                }
                continue;
            }
            return self.begin(world, controller, plan);
        }
        Ok(())
    }

    pub(super) fn begin(&mut self, world: &mut World, controller: usize, plan: u32) -> Verdict {
        let deploy = self.machine.states.get(world.ledger).last_deploy;
        self.handle(world, controller, &[Happens::Start(plan)], false)?;
        if self.machine.states.get(world.ledger).last_deploy != deploy {
            for at in 0..self.count() {
                let what = OnHost::OperatorStarts;
                if let Some(became) = self.hosts.after(world.hosts[at], what, &self.machine.words)? {
                    world.hosts[at] = became.host;
                }
            }
            let all = self.news(world, controller, 0..self.count());
            self.handle(world, controller, &all, false)?;
        }
        Ok(())
    }

    pub(super) fn falls_silent(&mut self, world: &mut World, controller: usize, host: usize) -> Verdict {
        let Presence { report, silent } = self.presence(world, controller, host);
        if silent {
            return Ok(());
        }
        let presence = Presence { report, silent: true };
        self.believe(world, controller, host, presence);
        let news = self.news(world, controller, std::iter::once(host));
        self.handle(world, controller, &news, false)
    }
}
