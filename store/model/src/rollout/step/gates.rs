//! A rollout at a gate: what checks and operators say, and whether it may go on.

use crate::desired::DeployNumber;
use crate::name::HostName;
use crate::rollout::event::{Happening, StartRefused};
use crate::rollout::gates::{Answer, AnswerWord, Ask, Gate, GateProgress, NotHis, PersonWord, Verdict};
use crate::rollout::plan::PlanStep;
use crate::rollout::state::{Course, Rollout, Stop, Switch};
use crate::rollout::step::Turn;

/// What stops at a gate is said to have stopped in.
const STEP: &str = "gate";

impl Turn {
    /// Waits until every gate of the step is open, and every host that was switched is well. Only what is not well has a
    /// deadline: people and checks take as long as they take.
    pub(super) fn gates(&mut self, rollout: &mut Rollout, step: usize, gates: &[Gate]) -> bool {
        let concerned: Vec<HostName> = rollout
            .hosts
            .iter()
            .filter(|(_, host)| matches!(host.switch, Switch::Asked { .. } | Switch::Running { .. }))
            .filter(|(_, host)| host.excused.is_none())
            .map(|(name, _)| name.clone())
            .collect();
        if self.fail_overdue(rollout, &concerned) {
            return true;
        }
        let unwell: Vec<_> = concerned
            .into_iter()
            .filter(|host| !rollout.runs_well(host))
            .collect();
        let lacks_assets = !rollout.take_incidents().is_empty();
        if !unwell.is_empty() || lacks_assets {
            // What passes while the release is not well says nothing for it.
            rollout.gates.iter_mut().for_each(GateProgress::passes_anew);
        }
        if !unwell.is_empty() {
            if rollout.soak_since_ms.take().is_some() {
                self.progressed(rollout);
            }
            return self.give_up(rollout, "switch", &unwell);
        }
        rollout.soak_since_ms.get_or_insert(self.now);
        let now = self.now;
        let open = gates
            .iter()
            .all(|gate| gate.is_open(rollout.gate(step, &gate.name), now));
        open && self.next_step(rollout, step)
    }

    /// What a check came to. One that was asked for another deploy or step is of no interest any more.
    pub(super) fn gate_said(
        &mut self,
        rollout: &mut Rollout,
        (deploy, step): (DeployNumber, usize),
        name: &str,
        (verdict, said): (Verdict, &str),
    ) {
        if rollout.deploy != deploy || rollout.course != (Course::Forward { step }) {
            return;
        }
        let Some((gate, pace)) = rollout
            .gate_of(step, name)
            .and_then(|gate| Some((gate, gate.pace()?)))
        else {
            return;
        };
        let gate = gate.name.clone();
        let known = rollout.gate_mut(step, &gate);
        let changed = known.hear(pace, verdict, said, self.now);
        let (fails, said) = (known.fails, known.said.clone());
        if changed {
            let said = said.clone();
            let gate = gate.clone();
            self.announce(
                rollout,
                Happening::GateSaid {
                    step,
                    gate,
                    verdict,
                    said,
                },
            );
        }
        // While an operator is asked what to do about it, it is not told again.
        if verdict == Verdict::Fail && fails >= pace.fails && rollout.waits.is_none() {
            let first = said.lines().next().unwrap_or_default();
            let stop = Stop {
                host: None,
                step: STEP.to_owned(),
                reason: format!("gate {gate}: {first}"),
                last_lines: said.lines().map(str::to_owned).collect(),
                by: None,
            };
            self.stop(rollout, stop);
        }
    }

    /// What an operator answers. The same word twice is one.
    pub(super) fn answer(&mut self, answer: &Answer, who: &str) {
        if let Err(why) = self.may_answer(answer, who) {
            return self.refuse(why);
        }
        let (who, note) = (who.to_owned(), answer.note.clone());
        self.with_rollout(|turn, rollout| {
            let Course::Forward { step } = rollout.course else {
                return;
            };
            match &answer.word {
                AnswerWord::Reject => turn.reject(rollout, who, note),
                AnswerWord::Approve => {
                    for gate in rollout.approvals(step, &who) {
                        turn.says_yes(rollout, (step, &gate), &who, note.as_ref());
                    }
                }
                AnswerWord::Acknowledge(gate) => {
                    turn.says_yes(rollout, (step, gate), &who, note.as_ref());
                }
            }
        });
    }

    fn may_answer(&self, answer: &Answer, who: &str) -> Result<(), StartRefused> {
        let rollout = self.state.running().ok_or(StartRefused::NothingRuns)?;
        let deploy = rollout.deploy;
        if let Some(asked) = answer.deploy.filter(|asked| *asked != deploy.0) {
            return Err(StartRefused::OtherDeploy { asked, deploy });
        }
        let waits = match rollout.course {
            Course::Forward { step } => Some(step).zip(rollout.present_gates()),
            Course::Back | Course::Ended => None,
        };
        let (step, gates) = waits.ok_or(StartRefused::NoGate { deploy })?;
        if let Some(asked) = answer.step.filter(|asked| *asked != step) {
            return Err(StartRefused::OtherStep {
                asked: asked + 1,
                waits: step + 1,
            });
        }
        match &answer.word {
            AnswerWord::Reject => Ok(()),
            AnswerWord::Acknowledge(name) => {
                let is_manual = |gate: &&Gate| matches!(gate.ask, Ask::Manual { .. });
                match gates.iter().filter(is_manual).any(|gate| gate.name == *name) {
                    true => Ok(()),
                    false => Err(StartRefused::NoManualGate {
                        name: name.clone(),
                        known: gates
                            .iter()
                            .filter(is_manual)
                            .map(|gate| gate.name.clone())
                            .collect(),
                    }),
                }
            }
            AnswerWord::Approve => rollout.may_approve(gates, who),
        }
    }

    fn says_yes(
        &mut self,
        rollout: &mut Rollout,
        (step, gate): (usize, &str),
        who: &str,
        note: Option<&String>,
    ) {
        let known = rollout.gate_mut(step, gate);
        if known.words.iter().any(|word| word.who == who) {
            return;
        }
        known.words.push(PersonWord {
            who: who.to_owned(),
            note: note.cloned(),
            at_ms: self.now,
        });
        let what = format!("gate {gate} of deploy {}: yes", rollout.deploy);
        self.audit(who, what, note.cloned());
        let (gate, who) = (gate.to_owned(), who.to_owned());
        self.announce(rollout, Happening::GateAnswered { step, gate, who });
    }

    /// A release that an operator rejects is not tried again by itself.
    fn reject(&mut self, rollout: &mut Rollout, who: String, note: Option<String>) {
        let reason = match &note {
            None => format!("rejected by {who}"),
            Some(note) => format!("rejected by {who}: {note}"),
        };
        self.audit(&who, format!("reject deploy {}", rollout.deploy), note);
        self.mark_bad(rollout.plan.to, rollout.deploy, reason.clone());
        let stop = Stop {
            host: None,
            step: STEP.to_owned(),
            reason,
            last_lines: Vec::new(),
            by: Some(who),
        };
        self.stop(rollout, stop);
    }
}

impl Rollout {
    /// The gates it waits for; none: it is at no gate.
    pub fn present_gates(&self) -> Option<&[Gate]> {
        match self.present() {
            Some(PlanStep::Gate { gates, .. }) => Some(gates),
            _ => None,
        }
    }

    /// What is known of a gate of a step.
    pub fn gate(&self, step: usize, gate: &str) -> Option<&GateProgress> {
        let mut known = self.gates.iter();
        known.find(|known| known.step == step && known.gate == gate)
    }

    fn gate_mut(&mut self, step: usize, gate: &str) -> &mut GateProgress {
        let is_it = |known: &GateProgress| known.step == step && known.gate == gate;
        let at = match self.gates.iter().position(is_it) {
            Some(at) => at,
            None => {
                self.gates.push(GateProgress::new(step, gate.to_owned()));
                self.gates.len() - 1
            }
        };
        &mut self.gates[at]
    }

    fn gate_of(&self, step: usize, name: &str) -> Option<&Gate> {
        match self.plan.steps.get(step) {
            Some(PlanStep::Gate { gates, .. }) => gates.iter().find(|gate| gate.name == name),
            _ => None,
        }
    }

    /// The approvals of a step that `who` may give.
    fn approvals(&self, step: usize, who: &str) -> Vec<String> {
        let Some(PlanStep::Gate { gates, .. }) = self.plan.steps.get(step) else {
            return Vec::new();
        };
        let given = |gate: &&Gate| {
            matches!(gate.ask, Ask::Approval { .. }) && gate.may_approve(who, &self.who).is_ok()
        };
        gates.iter().filter(given).map(|gate| gate.name.clone()).collect()
    }

    fn may_approve(&self, gates: &[Gate], who: &str) -> Result<(), StartRefused> {
        let mut why = StartRefused::NoApproval { deploy: self.deploy };
        for gate in gates
            .iter()
            .filter(|gate| matches!(gate.ask, Ask::Approval { .. }))
        {
            match gate.may_approve(who, &self.who) {
                Ok(()) => return Ok(()),
                Err(not) => {
                    why = StartRefused::NotHis {
                        gate: gate.name.clone(),
                        who: who.to_owned(),
                        asks: gate.asks(),
                        own: not == NotHis::Own,
                    };
                }
            }
        }
        Err(why)
    }
}
