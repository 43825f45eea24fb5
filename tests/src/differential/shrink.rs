//! Makes a failing case short enough to read.

use super::arena::{Arena, Divergence};
use super::case::Case;

/// Runs of a case that looking for a shorter one may take.
const RUNS_MAX: u32 = 600;

/// Leaves out steps, in ever smaller runs of them, for as long as the sides still differ. Returns
/// the shortest case found and its difference. Each is run in an `arena` of its own.
#[must_use]
pub fn shrink(arena: fn() -> Arena, case: &Case, found: Divergence) -> (Case, Divergence) {
    let mut best = (case.clone(), found);
    let mut runs = 0;
    let mut length = best.0.steps.len().div_ceil(2);
    while length > 0 {
        let (mut start, mut shorter) = (0, false);
        while start < best.0.steps.len() && runs < RUNS_MAX {
            runs += 1;
            let candidate = best.0.with_steps(|step| !(start..start + length).contains(&step));
            // A store of its own, so that what one run leaves does not make the next differ.
            match arena().run(&candidate) {
                Err(divergence) => {
                    best = (candidate, divergence);
                    shorter = true;
                }
                Ok(()) => start += length,
            }
        }
        if !shorter || length > 1 {
            length /= 2;
        }
        if runs >= RUNS_MAX {
            break;
        }
    }
    best
}

#[cfg(test)]
mod tests {
    use super::super::case::{Action, Family, Step};
    use super::*;

    #[test]
    fn what_is_not_needed_goes() {
        let sql = |text: String| Step { connection: 0, action: Action::Sql(text) };
        let mut steps: Vec<Step> = (0..20).map(|n| sql(format!("CREATE TABLE t{n}(a)"))).collect();
        // A statement whose answer is the path of the database.
        steps.insert(13, sql("PRAGMA database_list".to_owned()));
        let (database, settings) = (Vec::new(), Vec::new());
        let case = Case { family: Family::Alone, database, settings, steps };
        let found = Arena::new().run(&case).unwrap_err();
        let (short, divergence) = shrink(Arena::new, &case, found);
        // Without the table the database would have no file to speak of, but it has a path.
        assert_eq!(short.steps, [sql("PRAGMA database_list".to_owned())], "{short}");
        assert_eq!(divergence.step, Some(0));
    }
}
