//! How the cost grows with the number of followers and of keys.

use super::feeds;
use crate::{
    contestants::{Feed, Ours, Raw, Who},
    harness::{Child, Contest, Plan, Result},
    report::{Goal, Row},
};

/// Calls on `n` connections, beside a connection that subscribes to `keys` keys.
pub(super) const SPREAD: &str = "spread";

const BOTH: [Who; 2] = [Who::Raw, Who::Ours];

/// Connections among which the values of many keys go.
const CONNECTIONS: u64 = 8;

pub(crate) fn run(plan: &Plan) -> Result<Vec<Row>> {
    let points: &[u64] = if plan.smoke { &[1, 10] } else { &[1, 10, 100, 1_000] };
    let plan = &Plan { rounds: plan.rounds.min(5), ..plan.clone() };
    let mut rows = Vec::new();
    for &n in points {
        // The more connections, the fewer calls share a write.
        let calls = (200_000 / n).max(20_000);
        let contest = Contest { n, ..Contest::new(SPREAD, &BOTH, calls) };
        rows.extend(curve("calls, followers", n, &contest, plan)?);
    }
    for &keys in points {
        let contest = Contest { keys, ..Contest::new(SPREAD, &BOTH[1..], 200_000) };
        rows.extend(curve("calls, keys", keys, &contest, plan)?);
    }
    for &n in points {
        let values = (131_072 / n).min(32_768);
        let contest = Contest { n, units: n, ..Contest::new(feeds::FAN_OUT, &BOTH, values) };
        rows.extend(curve("deliveries, followers", n, &contest, plan)?);
    }
    for &keys in points {
        let (n, units) = (CONNECTIONS, CONNECTIONS);
        let contest =
            Contest { n, units, keys, ..Contest::new(feeds::FAN_OUT, &BOTH[1..], 16_000) };
        rows.extend(curve("deliveries, keys", keys, &contest, plan)?);
    }
    Ok(rows)
}

fn curve(name: &str, x: u64, contest: &Contest<'_>, plan: &Plan) -> Result<[Row; 2]> {
    let figures = contest.run(plan)?;
    let row = |figure, unit| Row::new(&format!("growth: {name}"), figure, unit, Goal::None).at(x);
    Ok([row("rate", "k/s").with(&figures, 0, 1e-3), row("CPU", "µs").with(&figures, 1, 1e-3)])
}

/// A client of [`SPREAD`].
pub(super) async fn client(child: &Child) -> Result<()> {
    if child.who == Who::Raw {
        let _held = Raw::subscribe(child.port, child.keys).await?;
        return super::calls::spread::<Raw>(child).await;
    }
    let _held = Ours::subscribe(child.port, child.keys).await?;
    super::calls::spread::<Ours>(child).await
}
