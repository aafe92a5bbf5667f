//! A run as tables in Markdown.

use std::fmt;

use super::{Goal, Report, Row};
use crate::contestants::Who;

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.setting)?;
        let has = |row: &Row, who: Who| row.rounds.contains_key(who.name());
        let is_curve = |row: &&Row| row.x.is_some();
        let is_pair = |row: &&Row| has(row, Who::OursThreads);
        let main: Vec<&Row> =
            self.rows.iter().filter(|row| !is_curve(row) && !is_pair(row)).collect();
        let pairs: Vec<&Row> = self.rows.iter().filter(is_pair).collect();
        let curves: Vec<&Row> = self.rows.iter().filter(is_curve).collect();
        for rows in [main, pairs, curves] {
            table(f, &rows)?;
        }
        Ok(())
    }
}

/// One table; it has the columns that its rows need.
fn table(f: &mut fmt::Formatter<'_>, rows: &[&Row]) -> fmt::Result {
    if rows.is_empty() {
        return Ok(());
    }
    let takes_part = |who: &Who| rows.iter().any(|row| row.rounds.contains_key(who.name()));
    let others: Vec<Who> = Who::ALL[2..].iter().copied().filter(takes_part).collect();
    let has_goals = rows.iter().any(|row| !matches!(row.goal, Goal::None));
    let mut head = vec!["workload", "figure", "raw-tcp", "ours", "ratio (quartiles)"];
    if has_goals {
        head.extend(["goal", "met"]);
    }
    head.extend(others.iter().map(|who| who.name()));
    writeln!(f, "| {} |", head.join(" | "))?;
    writeln!(f, "|{}", " --- |".repeat(head.len()))?;
    let mut last = "";
    for row in rows {
        let workload = if row.workload == last { "" } else { &row.workload };
        last = &row.workload;
        let mut cells = vec![workload.to_owned(), figure(row)];
        cells.extend([plain(row, Who::Raw), plain(row, Who::Ours), ratio(row)]);
        if has_goals {
            let met = row.is_met().map_or("", |met| if met { "yes" } else { "no" });
            cells.extend([row.goal.to_string(), met.to_owned()]);
        }
        cells.extend(others.iter().map(|who| with_ratio(row, *who)));
        writeln!(f, "| {} |", cells.join(" | "))?;
    }
    writeln!(f)
}

fn figure(row: &Row) -> String {
    match (row.x, row.unit.as_str()) {
        (Some(x), unit) => format!("{} at {x}, {unit}", row.figure),
        (None, "") => row.figure.clone(),
        (None, unit) => format!("{}, {unit}", row.figure),
    }
}

fn plain(row: &Row, who: Who) -> String {
    row.median(who).map_or_else(String::new, short)
}

fn ratio(row: &Row) -> String {
    row.ratio(Who::Ours).map_or_else(String::new, |[median, low, high]| {
        format!("**{median:.2}** ({low:.2} – {high:.2})")
    })
}

fn with_ratio(row: &Row, who: Who) -> String {
    match (row.median(who), row.ratio(who)) {
        (Some(median), Some([ratio, ..])) => format!("{} ({ratio:.2})", short(median)),
        (Some(median), None) => short(median),
        (None, _) => String::new(),
    }
}

/// Three digits or so.
pub(super) fn short(figure: f64) -> String {
    match figure.abs() {
        0.0 => "0".to_owned(),
        100.0.. => format!("{figure:.0}"),
        10.0.. => format!("{figure:.1}"),
        _ => format!("{figure:.2}"),
    }
}
