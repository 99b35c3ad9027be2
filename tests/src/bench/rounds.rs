//! Work done by several tasks for a while, and what it cost.

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::future::BoxFuture;

use super::meter::Meter;

/// One operation; the argument tells which task does it. Fails loudly: a bench counts no errors.
pub type Work = Arc<dyn Fn(usize) -> BoxFuture<'static, ()> + Send + Sync>;

/// Work with a name.
#[derive(Clone)]
pub struct Candidate {
    /// What it is called in tables.
    pub name: &'static str,
    /// What it does.
    pub work: Work,
}

impl Candidate {
    /// Work of this name.
    pub fn new<F>(name: &'static str, work: impl Fn(usize) -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        Self { name, work: Arc::new(move |task| Box::pin(work(task))) }
    }
}

/// What one candidate did in one round.
#[derive(Debug, Clone, Copy)]
pub struct Cell {
    /// Operations a second.
    pub rate: f64,
    /// Processor time an operation, in microseconds; client and Postgres together.
    pub cpu: f64,
    /// Median of an operation's time, in microseconds.
    pub p50: f64,
    /// 99 of 100 were quicker, in microseconds.
    pub p99: f64,
}

/// What each candidate did, round by round.
pub struct Rounds {
    names: Vec<&'static str>,
    cells: Vec<Vec<Cell>>,
}

/// Runs the candidates in turn, so many rounds; each has `tasks` tasks working for `time`. Every other round goes
/// backwards, so that none is always the one after the same other.
pub async fn interleaved(
    candidates: &[Candidate],
    (rounds, tasks, time): (usize, usize, Duration),
    meter: &Meter,
) -> Rounds {
    let mut cells = vec![Vec::new(); candidates.len()];
    for round in 0..rounds {
        let mut order: Vec<usize> = (0..candidates.len()).collect();
        if round % 2 == 1 {
            order.reverse();
        }
        for at in order {
            cells[at].push(cell(&candidates[at].work, tasks, time, meter).await);
        }
    }
    Rounds { names: candidates.iter().map(|candidate| candidate.name).collect(), cells }
}

/// Lets each candidate work once unmeasured, so that connections are open and statements prepared.
pub async fn warm(candidates: &[Candidate], tasks: usize, time: Duration) {
    for candidate in candidates {
        drop(work(&candidate.work, tasks, time).await);
    }
}

async fn cell(candidate: &Work, tasks: usize, time: Duration, meter: &Meter) -> Cell {
    let (cpu, begun) = (meter.read(), Instant::now());
    let mut times = work(candidate, tasks, time).await;
    let (took, cpu) = (begun.elapsed(), meter.read().saturating_sub(cpu));
    times.sort_unstable();
    #[expect(clippy::cast_precision_loss, reason = "far fewer than 2^52 operations")]
    let count = times.len() as f64;
    let at = |percent: usize| {
        let place = (times.len() * percent / 100).min(times.len() - 1);
        times[place].as_secs_f64() * 1e6
    };
    Cell { rate: count / took.as_secs_f64(), cpu: cpu.as_secs_f64() * 1e6 / count, p50: at(50), p99: at(99) }
}

/// How long each operation took.
async fn work(candidate: &Work, tasks: usize, time: Duration) -> Vec<Duration> {
    let until = Instant::now() + time;
    let workers = (0..tasks).map(|task| {
        let candidate = Arc::clone(candidate);
        tokio::spawn(async move {
            let mut times = Vec::with_capacity(1024);
            loop {
                let begun = Instant::now();
                if begun >= until && !times.is_empty() {
                    return times;
                }
                candidate(task).await;
                times.push(begun.elapsed());
            }
        })
    });
    let done = futures::future::join_all(workers).await;
    done.into_iter().flat_map(|times| times.expect("no operation fails")).collect()
}

/// A figure over the rounds: its median, and between what it lay.
#[derive(Debug, Clone, Copy)]
pub struct Spread {
    /// Half the rounds had less.
    pub median: f64,
    /// The least of any round.
    pub least: f64,
    /// The most.
    pub most: f64,
}

impl Spread {
    /// Of these figures.
    ///
    /// # Panics
    /// When there are none.
    #[must_use]
    pub fn of(figures: impl Iterator<Item = f64>) -> Self {
        let mut figures: Vec<f64> = figures.collect();
        figures.sort_by(f64::total_cmp);
        let (least, most) = (figures[0], figures[figures.len() - 1]);
        let middle = figures.len() / 2;
        let median = if figures.len() % 2 == 1 {
            figures[middle]
        } else {
            f64::midpoint(figures[middle - 1], figures[middle])
        };
        Self { median, least, most }
    }
}

impl std::fmt::Display for Spread {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:.2} ({:.2} to {:.2})", self.median, self.least, self.most)
    }
}

impl Rounds {
    fn of(&self, name: &str) -> &[Cell] {
        let at = self.names.iter().position(|known| *known == name);
        &self.cells[at.unwrap_or_else(|| panic!("{name} was measured"))]
    }

    /// One candidate's figure over another's, round by round: what disturbs a round disturbs both.
    #[must_use]
    pub fn ratio(&self, name: &str, over: &str, figure: impl Fn(&Cell) -> f64) -> Spread {
        Spread::of(self.of(name).iter().zip(self.of(over)).map(|(one, other)| figure(one) / figure(other)))
    }

    /// A table of medians, with each candidate's processor time and rate over those of `base`.
    #[must_use]
    pub fn table(&self, title: &str, base: &str) -> String {
        let mut text = format!(
            "\n{title}\n{:<44} {:>9} {:>8} {:>8} {:>9}  {:<22} rate ratio\n",
            "", "ops/s", "p50 us", "p99 us", "CPU us/op", "CPU ratio"
        );
        for name in &self.names {
            let median = |figure: fn(&Cell) -> f64| Spread::of(self.of(name).iter().map(figure)).median;
            writeln!(
                text,
                "{name:<44} {:>9.0} {:>8.0} {:>8.0} {:>9.1}  {:<22} {}",
                median(|cell| cell.rate),
                median(|cell| cell.p50),
                median(|cell| cell.p99),
                median(|cell| cell.cpu),
                self.ratio(name, base, |cell| cell.cpu).to_string(),
                self.ratio(name, base, |cell| cell.rate),
            )
            .expect("a String takes every text");
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spread_is_its_middle_and_its_ends() {
        let odd = Spread::of([3.0, 1.0, 2.0].into_iter());
        assert_eq!(odd.to_string(), "2.00 (1.00 to 3.00)");
        let even = Spread::of([4.0, 1.0, 2.0, 3.0].into_iter());
        assert_eq!(even.to_string(), "2.50 (1.00 to 4.00)");
    }
}
