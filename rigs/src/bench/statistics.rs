//! Median and quartiles of samples. A single slow sample does not move them.

use std::time::Duration;

use serde::Serialize;

/// Median and quartiles in microseconds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(crate) struct Spread {
    pub(crate) lower: f64,
    pub(crate) median: f64,
    pub(crate) upper: f64,
    pub(crate) samples: usize,
}

impl Spread {
    /// # Panics
    ///
    /// Without samples.
    pub(crate) fn of(samples: &[Duration]) -> Self {
        let mut sorted: Vec<f64> = samples.iter().map(|time| time.as_secs_f64() * 1e6).collect();
        sorted.sort_by(f64::total_cmp);
        Self {
            lower: quantile(&sorted, 1, 4),
            median: quantile(&sorted, 1, 2),
            upper: quantile(&sorted, 3, 4),
            samples: sorted.len(),
        }
    }
}

/// Interpolates between the two nearest samples.
fn quantile(sorted: &[f64], part: usize, of: usize) -> f64 {
    let position = (sorted.len() - 1) * part;
    let (below, above) = (sorted[position / of], sorted[position.div_ceil(of)]);
    #[expect(clippy::cast_precision_loss, reason = "both are smaller than `of`")]
    let fraction = (position % of) as f64 / of as f64;
    below + (above - below) * fraction
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_slow_sample_moves_neither_median_nor_quartiles() {
        let spread = |last| Spread::of(&[10, 20, 30, 40, last].map(Duration::from_micros));
        let (calm, disturbed) = (spread(50), spread(5000));
        assert_eq!((calm.lower, calm.median, calm.upper), (20.0, 30.0, 40.0));
        assert_eq!(calm, disturbed);
    }

    #[test]
    fn the_median_of_an_even_number_of_samples_is_between_two() {
        let spread = Spread::of(&[4, 1, 2, 3].map(Duration::from_micros));
        let expected = Spread { lower: 1.75, median: 2.5, upper: 3.25, samples: 4 };
        assert_eq!(spread, expected);
    }
}
