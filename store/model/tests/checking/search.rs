//! Breadth first over everything that can happen, each state once, compared exactly; the way to a state is found again from
//! the states before it.

use std::fmt::Debug;

/// Numbers that name a state of the world.
pub const WIDTH: usize = 12;
pub type Key = [u32; WIDTH];

/// What is searched.
pub trait Space {
    type Label: Debug;
    type Violation;

    fn start(&mut self) -> Key;
    /// Everything that can happen next.
    fn next(&mut self, from: &Key, found: &mut Vec<(Self::Label, Key)>) -> Result<(), Self::Violation>;
    /// What leads to the violation beyond the last state, told by looking at it again.
    fn tell(&mut self, at: &Key) -> Vec<String>;
    /// What must be true of the state itself.
    fn check(&mut self, at: &Key) -> Result<(), Self::Violation>;
}

/// How far a search came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reached {
    pub states: usize,
    /// Ways that were followed, those that lead to known states included.
    pub ways: u64,
    /// Things that happen one after another, at most.
    pub depth: usize,
    /// Nothing is left that was not looked at.
    pub exhausted: bool,
}

/// A way to something that must not be.
#[derive(Debug)]
pub struct Found<V> {
    pub violation: V,
    /// What happened, in order; the last of it may be missing where it broke the rule itself.
    pub way: Vec<String>,
    pub reached: Reached,
}

struct Seen {
    keys: Vec<Key>,
    parents: Vec<u32>,
    /// Open addressing: a place in `keys` and one, or 0.
    table: Vec<u32>,
}

impl Seen {
    fn new() -> Self {
        Self {
            keys: Vec::new(),
            parents: Vec::new(),
            table: vec![0; 1 << 16],
        }
    }

    fn place(table: &[u32], keys: &[Key], key: &Key) -> Result<usize, usize> {
        let mask = table.len() - 1;
        let mut hash = 0xcbf2_9ce4_8422_2325_u64;
        for part in key {
            hash = (hash ^ u64::from(*part)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            hash ^= hash >> 29;
        }
        let mut at = hash as usize & mask;
        loop {
            match table[at] {
                0 => return Err(at),
                known if keys[known as usize - 1] == *key => return Ok(at),
                _ => at = (at + 1) & mask,
            }
        }
    }

    /// False when it was known.
    fn add(&mut self, key: Key, parent: u32) -> bool {
        let Err(at) = Self::place(&self.table, &self.keys, &key) else {
            return false;
        };
        self.keys.push(key);
        self.parents.push(parent);
        self.table[at] = self.keys.len() as u32;
        if self.keys.len() * 10 > self.table.len() * 7 {
            let mut table = vec![0; self.table.len() * 2];
            for (index, key) in self.keys.iter().enumerate() {
                if let Err(at) = Self::place(&table, &self.keys, key) {
                    table[at] = index as u32 + 1;
                }
            }
            self.table = table;
        }
        true
    }
}

/// Looks at every state, at most `most` of them.
pub fn search<S: Space>(space: &mut S, most: usize) -> Result<Reached, Box<Found<S::Violation>>> {
    let mut seen = Seen::new();
    let start = space.start();
    seen.add(start, 0);
    let mut reached = Reached {
        states: 1,
        ways: 0,
        depth: 0,
        exhausted: false,
    };
    let (mut at, mut layer_ends) = (0, 1);
    let mut found = Vec::new();
    while at < seen.keys.len() {
        if at == layer_ends {
            layer_ends = seen.keys.len();
            reached.depth += 1;
        }
        let key = seen.keys[at];
        found.clear();
        let verdict = space.check(&key).and_then(|()| space.next(&key, &mut found));
        reached.states = seen.keys.len();
        if let Err(violation) = verdict {
            let mut way = way(space, &seen, at);
            way.extend(space.tell(&key));
            return Err(Box::new(Found {
                violation,
                way,
                reached,
            }));
        }
        reached.ways += found.len() as u64;
        for (_, next) in &found {
            seen.add(*next, at as u32);
        }
        at += 1;
        if seen.keys.len() >= most {
            reached.states = seen.keys.len();
            return Ok(reached);
        }
    }
    reached.states = seen.keys.len();
    reached.exhausted = true;
    Ok(reached)
}

/// What happened on the way to a state.
fn way<S: Space>(space: &mut S, seen: &Seen, to: usize) -> Vec<String> {
    let mut way = Vec::new();
    let mut at = to;
    while at != 0 {
        let before = seen.parents[at] as usize;
        let mut found = Vec::new();
        // It was gone through before; what it violates, if anything, is told already.
        let _ = space.next(&seen.keys[before], &mut found);
        let label = found.iter().find(|(_, key)| *key == seen.keys[at]);
        way.push(label.map_or_else(|| "?".to_owned(), |(label, _)| format!("{label:?}")));
        at = before;
    }
    way.reverse();
    way
}
