//! Latencies in bounded memory: buckets that grow with the value, exact to about three percent.

use serde::{Deserialize, Serialize};

/// Buckets per doubling.
const FINE: u64 = 32;
const FINE_BITS: u32 = FINE.trailing_zeros();
/// Enough for 2^40 microseconds.
const BUCKETS: usize = (FINE as usize) * 37;

#[derive(Debug, Clone)]
pub struct Histogram {
    counts: Vec<u64>,
    total: u64,
    max: u64,
}

/// Milliseconds; zero when nothing was measured.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Quantiles {
    pub p50: f64,
    pub p90: f64,
    pub p99: f64,
    pub max: f64,
}

impl Histogram {
    pub fn new() -> Self {
        Self {
            counts: vec![0; BUCKETS],
            total: 0,
            max: 0,
        }
    }

    pub fn record(&mut self, micros: u64) {
        self.counts[bucket(micros)] += 1;
        self.total += 1;
        self.max = self.max.max(micros);
    }

    pub fn quantiles(&self) -> Quantiles {
        Quantiles {
            p50: self.quantile(50),
            p90: self.quantile(90),
            p99: self.quantile(99),
            max: millis(self.max),
        }
    }

    fn quantile(&self, percent: u64) -> f64 {
        let rank = (self.total * percent).div_ceil(100).max(1);
        let mut seen = 0;
        for (place, count) in self.counts.iter().enumerate() {
            seen += count;
            if seen >= rank {
                return millis(upper_edge(place).min(self.max));
            }
        }
        0.0
    }
}

fn bucket(micros: u64) -> usize {
    if micros < FINE {
        return micros as usize;
    }
    let doubling = micros.ilog2() - FINE_BITS;
    let fine = (micros >> doubling) - FINE;
    ((u64::from(doubling) + 1) * FINE + fine).min(BUCKETS as u64 - 1) as usize
}

/// The largest value that falls into a bucket.
fn upper_edge(bucket: usize) -> u64 {
    let bucket = bucket as u64;
    if bucket < FINE {
        return bucket;
    }
    let (doubling, fine) = (bucket / FINE - 1, bucket % FINE);
    ((FINE + fine + 1) << doubling) - 1
}

fn millis(micros: u64) -> f64 {
    micros as f64 / 1000.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn edges_and_buckets_agree() {
        for micros in (0..100_000).chain([1 << 30, (1 << 40) - 1]) {
            let edge = upper_edge(bucket(micros));
            assert!(
                edge >= micros && edge <= micros + micros / FINE + 1,
                "{micros} in a bucket up to {edge}"
            );
        }
        assert_eq!(bucket(u64::MAX), BUCKETS - 1);
    }

    #[test]
    fn quantiles_are_near_and_max_is_exact() {
        let mut histogram = Histogram::new();
        (1..=1000).for_each(|millis| histogram.record(millis * 1000));
        let quantiles = histogram.quantiles();
        assert!((500.0..=516.0).contains(&quantiles.p50), "{quantiles:?}");
        assert!((990.0..=1000.0).contains(&quantiles.p99), "{quantiles:?}");
        assert!((quantiles.max - 1000.0).abs() < f64::EPSILON);
        assert_eq!(Histogram::new().quantiles(), Quantiles::default());
    }
}
