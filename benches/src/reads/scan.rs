//! Scans of one large table.

use std::time::Instant;

use lapidary_benches::failure::Result;
use lapidary_benches::numbers::{rounded, short};
use lapidary_benches::sheet::{Sheet, Target};
use rusqlite::Connection;
use serde::{Deserialize, Serialize};

use crate::database::{
    Answer, Arm, BODY_BYTES, COUNT_ROWS, LOOKUPS, Place, READ_ROWS, ask, check, look_up,
};
use crate::step;

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct Scan {
    pub(crate) rounds: u32,
    pub(crate) expected: Answer,
}

/// One query of one arm.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Timed {
    /// The first time, when nothing is mapped and no checksum compared.
    pub(crate) first_ms: f64,
    pub(crate) median_ms: f64,
    /// Against stock SQLite with `mmap_size` on in the same round: the median.
    pub(crate) ratio: f64,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct ArmFigures {
    pub(crate) arm: Arm,
    pub(crate) read_rows: Timed,
    pub(crate) count_rows: Timed,
    pub(crate) look_up: Timed,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Figures {
    pub(crate) mib: u32,
    pub(crate) rounds: u32,
    pub(crate) arms: Vec<ArmFigures>,
}

pub(crate) fn scan(place: &Place, scan: Scan) -> Result<Vec<ArmFigures>> {
    let _registration = place.serve()?;
    let connections: Vec<(Arm, Connection)> =
        Arm::ALL.into_iter().map(|arm| Ok((arm, place.open(arm)?))).collect::<Result<_>>()?;
    let rows = scan.expected.0;
    let looked_up = (LOOKUPS, LOOKUPS * u64::from(BODY_BYTES), 0);
    let mut read = time(&connections, scan, READ_ROWS, scan.expected, 0)?.into_iter();
    let mut count = time(&connections, scan, COUNT_ROWS, (rows, 0, 0), 1)?.into_iter();
    let mut look_up = time(&connections, scan, &look_up(rows), looked_up, 2)?.into_iter();
    let figures = |arm| -> Option<ArmFigures> {
        let (read_rows, count_rows) = (read.next()?, count.next()?);
        Some(ArmFigures { arm, read_rows, count_rows, look_up: look_up.next()? })
    };
    Ok(Arm::ALL.into_iter().filter_map(figures).collect())
}

/// Runs `sql` on each connection in turn, again and again. The first one is what the others are held
/// against.
fn time(
    connections: &[(Arm, Connection)],
    scan: Scan,
    sql: &str,
    expected: Answer,
    queries_done: u32,
) -> Result<Vec<Timed>> {
    let mut times = vec![Vec::new(); connections.len()];
    for round in 0..=scan.rounds {
        for ((arm, connection), times) in connections.iter().zip(&mut times) {
            let started = Instant::now();
            let found = ask(connection, sql)?;
            times.push(started.elapsed().as_secs_f64() * 1000.0);
            check(*arm, found, expected)?;
        }
        step::tell(queries_done * scan.rounds + round, 3 * scan.rounds, "rounds");
    }
    let base = times[0].clone();
    let timed = |times: Vec<f64>| {
        let ratios = times.iter().zip(&base).skip(1).map(|(time, base)| time / base);
        Timed {
            first_ms: rounded(times[0], 2),
            ratio: rounded(median(ratios.collect()), 3),
            median_ms: rounded(median(times[1..].to_vec()), 2),
        }
    };
    Ok(times.into_iter().map(timed).collect())
}

fn median(mut numbers: Vec<f64>) -> f64 {
    numbers.sort_by(f64::total_cmp);
    numbers[numbers.len() / 2]
}

impl Figures {
    pub(crate) fn sheet(&self) -> Sheet {
        let title = format!(
            "Queries over {} MiB, the median of {} that take turns; ratios to stock SQLite with mmap_size on",
            self.mib, self.rounds
        );
        let columns = [
            "every row, first ms",
            "then ms",
            "ratio",
            "count(*) ms",
            "ratio",
            "200,000 lookups ms",
            "ratio",
        ];
        let mut sheet = Sheet::new(title, &columns);
        for ArmFigures { arm, read_rows, count_rows, look_up } in &self.arms {
            let figures = vec![
                short(read_rows.first_ms),
                short(read_rows.median_ms),
                format!("{:.2}x", read_rows.ratio),
                short(count_rows.median_ms),
                format!("{:.2}x", count_rows.ratio),
                short(look_up.median_ms),
                format!("{:.2}x", look_up.ratio),
            ];
            sheet.row(arm.label(), figures);
        }
        sheet
    }

    pub(crate) fn targets(&self) -> Vec<Target> {
        let lapidary = self.arms.iter().find(|figures| figures.arm == Arm::Lapidary);
        let ratio = lapidary.map_or(f64::INFINITY, |figures| figures.read_rows.ratio);
        vec![Target::new("scan of every row, against stock SQLite with mmap_size on", ratio, 1.1)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_middle_one_counts() {
        assert_eq!(median(vec![9.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(vec![4.0]), 4.0);
    }
}
