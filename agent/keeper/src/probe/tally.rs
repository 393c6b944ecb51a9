//! How many answers came, good ones in a row, wrong ones in a row, and what was the matter last.

/// What became of a probe.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Progress {
    /// Not decided yet.
    Asking,
    /// As many good answers in a row as were wanted; when the first one came.
    Passed(u64),
    /// It will not pass.
    Failed(String),
}

/// How one attempt ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// As wanted.
    Good,
    /// The connection went to another generation, or to a stranger, which says nothing about this one; to whom.
    Elsewhere(String),
    /// Nobody answered yet: a starting process may do so.
    None(String),
    /// It answered, and the answer is wrong.
    Wrong(String),
}

/// Answers so far.
#[derive(Debug)]
pub struct Tally {
    wanted: u32,
    /// The process has said that it is ready, and so may not give wrong answers for long.
    told_ready: bool,
    /// It has passed before: it only fails, when it gives no good answer so many times in a row.
    watches: bool,
    good: u32,
    wrong: u32,
    first_answer_at: Option<u64>,
    problem: Option<String>,
    /// The problem has not been told since it came up.
    untold: bool,
}

impl Tally {
    /// None yet; `times` good ones in a row are wanted.
    #[must_use]
    pub fn new(times: u32, told_ready: bool) -> Self {
        Self {
            wanted: times.max(1),
            told_ready,
            watches: false,
            good: 0,
            wrong: 0,
            first_answer_at: None,
            problem: None,
            untold: false,
        }
    }

    /// For one that has passed and must go on answering: as many answers as it gave must be wrong in a row, or not come, but
    /// at least two.
    #[must_use]
    pub fn watching(self) -> Self {
        Self {
            wanted: self.wanted.max(2),
            told_ready: true,
            watches: true,
            ..self
        }
    }

    /// What was wrong with the last attempt, when that is news.
    pub fn last_problem(&mut self) -> Option<String> {
        std::mem::take(&mut self.untold)
            .then(|| self.problem.clone())
            .flatten()
    }

    /// Counts one more.
    pub fn take(&mut self, answer: Answer, now: u64) -> Progress {
        match answer {
            Answer::Good => {
                self.good += 1;
                self.wrong = 0;
                let first = *self.first_answer_at.get_or_insert(now);
                if self.good >= self.wanted && !self.watches {
                    return Progress::Passed(first);
                }
            }
            Answer::Elsewhere(problem) => self.remember(problem),
            Answer::None(problem) if !self.watches => {
                self.good = 0;
                self.remember(problem);
            }
            Answer::Wrong(problem) | Answer::None(problem) => {
                self.good = 0;
                self.wrong += 1;
                if self.told_ready && self.wrong >= self.wanted {
                    return Progress::Failed(format!(
                        "its probe failed {} times in a row: {problem}",
                        self.wrong
                    ));
                }
                self.remember(problem);
            }
        }
        Progress::Asking
    }

    fn remember(&mut self, problem: String) {
        if self.problem.as_ref() != Some(&problem) {
            self.problem = Some(problem);
            self.untold = true;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Answer, Progress, Tally};

    fn wrong() -> Answer {
        Answer::Wrong("500".to_owned())
    }

    #[test]
    fn good_answers_count_in_a_row() {
        let mut tally = Tally::new(2, false);
        let elsewhere = Answer::Elsewhere("the old one".to_owned());
        for answer in [Answer::Good, wrong(), Answer::Good, elsewhere] {
            assert_eq!(tally.take(answer, 5), Progress::Asking);
        }
        assert_eq!(tally.take(Answer::Good, 9), Progress::Passed(5));
    }

    #[test]
    fn wrong_answers_of_one_that_says_it_is_ready_end_it() {
        let mut tally = Tally::new(2, true);
        assert_eq!(tally.take(wrong(), 1), Progress::Asking);
        let none = Answer::None("refused".to_owned());
        assert_eq!(tally.take(none, 1), Progress::Asking);
        assert!(matches!(tally.take(wrong(), 2), Progress::Failed(_)));
        let mut patient = Tally::new(2, false);
        for _ in 0..10 {
            assert_eq!(patient.take(wrong(), 1), Progress::Asking);
        }
    }

    #[test]
    fn one_that_is_watched_never_passes_and_fails_when_it_falls_silent() {
        let mut tally = Tally::new(1, false).watching();
        let none = || Answer::None("refused".to_owned());
        for answer in [Answer::Good, Answer::Good, none(), Answer::Good, wrong()] {
            assert_eq!(tally.take(answer, 1), Progress::Asking);
        }
        assert!(matches!(tally.take(none(), 1), Progress::Failed(_)));
    }

    #[test]
    fn a_problem_is_told_once() {
        let mut tally = Tally::new(1, false);
        assert_eq!(tally.last_problem(), None);
        for _ in 0..3 {
            tally.take(wrong(), 1);
        }
        assert_eq!(tally.last_problem().as_deref(), Some("500"));
        tally.take(wrong(), 1);
        assert_eq!(tally.last_problem(), None);
    }
}
