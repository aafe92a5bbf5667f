//! What was measured, as a table in Markdown.

use std::fmt;

use super::quantile;

/// One figure of both contestants.
#[derive(Debug)]
pub(crate) struct Row {
    pub(crate) what: &'static str,
    pub(crate) unit: &'static str,
    pub(crate) raw: f64,
    pub(crate) ours: f64,
    /// Ratio of ours to raw: the median over the rounds, and the quartiles.
    pub(crate) ratio: Option<[f64; 3]>,
    pub(crate) goal: &'static str,
}

impl Row {
    /// Compares the figure at `index` of each round, times `scale`.
    pub(crate) fn new(
        (what, unit, goal): (&'static str, &'static str, &'static str),
        [raw, ours]: &[Vec<Vec<f64>>; 2],
        index: usize,
        scale: f64,
    ) -> Self {
        let column = |rounds: &[Vec<f64>]| -> Vec<f64> {
            rounds.iter().map(|round| round[index] * scale).collect()
        };
        let (raw, ours) = (column(raw), column(ours));
        let ratios: Vec<f64> = raw.iter().zip(&ours).map(|(raw, ours)| ours / raw).collect();
        Self {
            what,
            unit,
            raw: quantile(&raw, 0.5),
            ours: quantile(&ours, 0.5),
            ratio: Some([0.5, 0.25, 0.75].map(|at| quantile(&ratios, at))),
            goal,
        }
    }
}

#[derive(Debug, Default)]
pub(crate) struct Table(Vec<Row>);

impl Extend<Row> for Table {
    fn extend<I: IntoIterator<Item = Row>>(&mut self, rows: I) {
        self.0.extend(rows);
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "| workload | raw | ours | ratio (quartiles) | goal |")?;
        writeln!(f, "| --- | --- | --- | --- | --- |")?;
        for row in &self.0 {
            let Row { what, unit, raw, ours, goal, .. } = row;
            let raw = if raw.is_nan() { "–".to_owned() } else { format!("{raw:.1} {unit}") };
            let ratio = row.ratio.map_or_else(
                || "–".to_owned(),
                |[median, low, high]| format!("**{median:.2}** ({low:.2} – {high:.2})"),
            );
            writeln!(f, "| {what} | {raw} | {ours:.1} {unit} | {ratio} | {goal} |")?;
        }
        Ok(())
    }
}
