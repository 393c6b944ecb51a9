//! How long a release's own words let its switch take on one host.

use crate::spec::{ProcessSpec, ReleaseSpec, Strategy};

impl ReleaseSpec {
    /// The longest that a switch to or from it may wait on one host because it says so, in milliseconds: for its first good
    /// answer, for its lock, for its canary to grow, and, where the old one ends first, until that has drained and stopped.
    /// Processes wait at the same time; hooks run one after the other.
    pub fn switch_waits_ms(&self) -> u64 {
        let processes = self.processes.values().map(ProcessSpec::switch_waits_ms);
        let hooks = self.hooks.values().flatten().map(|hook| hook.timeout_ms);
        hooks.fold(processes.max().unwrap_or_default(), u64::saturating_add)
    }
}

impl ProcessSpec {
    fn switch_waits_ms(&self) -> u64 {
        let canary = self.canary.map_or(0, |canary| {
            canary.hold_ms.saturating_mul(u64::from(canary.holds()))
        });
        let ends_first = self.strategy == Strategy::StopStart || !self.coexist || !self.overlap;
        let end = if ends_first {
            self.drain_ms.saturating_add(self.stop_timeout_ms)
        } else {
            0
        };
        [
            self.ready_timeout_ms,
            self.lock_wait_ms.unwrap_or_default(),
            canary,
            end,
        ]
        .into_iter()
        .fold(0, u64::saturating_add)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap fails the test")]

    use crate::spec::read_ship_toml;

    #[test]
    fn what_a_release_waits_for_is_summed() {
        let waits = |words: &str| {
            let text = format!(
                "app = \"a\"\n[process.web]\ncommand = [\"x\"]\nlisten = {{ http = \"tcp:80\" }}\nready_timeout = \"20s\"\n{words}\n"
            );
            read_ship_toml(&text, None).unwrap().switch_waits_ms() / 1000
        };
        assert_eq!(waits(""), 20);
        assert_eq!(waits("lock_wait = \"10m\""), 620);
        // 5, 10, 20 and 40 per cent, a minute each.
        assert_eq!(waits("canary = { percent = 5, hold = \"1m\" }"), 260);
        assert_eq!(
            waits("coexist = false\ndrain = \"5m\"\nstop_timeout = \"40s\""),
            360
        );
        assert_eq!(waits("drain = \"5m\""), 20);
        assert_eq!(read_ship_toml("app = \"a\"", None).unwrap().switch_waits_ms(), 0);
    }
}
