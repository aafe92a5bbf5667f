//! Plots of a run, as SVG.

use std::{fs, path::Path};

use plotters::{
    coord::Shift,
    prelude::*,
    style::text_anchor::{HPos, Pos, VPos},
};

use super::{Report, Row, table::short};
use crate::{contestants::Who, harness::Result};

const SIZE: (u32, u32) = (800, 420);
const COLORS: [RGBColor; 3] =
    [RGBColor(38, 84, 124), RGBColor(239, 131, 84), RGBColor(110, 160, 110)];
/// By how much the scale goes beyond the highest figure, so that the legend has a place.
const ROOM: f64 = 6.0;
const TEXT: RGBColor = RGBColor(60, 60, 60);

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

/// Draws what the run has figures for.
pub(crate) fn all(report: &Report, folder: &Path) -> Result<()> {
    fs::create_dir_all(folder)?;
    let bars = [
        (
            "latency",
            "A call of 128 B, one in flight, µs",
            series(report, &[("latency", "p50", "p50"), ("latency", "p99", "p99")]),
        ),
        (
            "throughput",
            "Calls of 128 B, thousands a second",
            series(
                report,
                &[
                    ("throughput, one", "calls", "one connection, 256 in flight"),
                    ("throughput, four", "calls", "four processes, 64 in flight each"),
                ],
            ),
        ),
        (
            "fan-out",
            "Deliveries of 1 KiB, thousands a second",
            series(
                report,
                &[
                    ("fan-out, 1 KiB to 8", "deliveries", "to 8 connections"),
                    ("fan-out, 1 KiB to 64", "deliveries", "to 64"),
                    ("fan-out, 1 KiB to 512", "deliveries", "to 512"),
                ],
            ),
        ),
    ];
    for (name, title, series) in bars.iter().filter(|(.., series)| !series.is_empty()) {
        let file = folder.join(name).with_extension("svg");
        bar_chart(&file, title, series)?;
    }
    for (name, title) in [
        ("calls, followers", "Calls, 1,000 in flight, by number of followers, thousands a second"),
        ("calls, keys", "Calls, 1,000 in flight, by number of keys, thousands a second"),
        ("deliveries, followers", "Deliveries by number of followers, thousands a second"),
        ("deliveries, keys", "Deliveries to 8 connections by number of keys, thousands a second"),
    ] {
        let workload = format!("growth: {name}");
        let is_point = |row: &&Row| row.workload == workload && row.figure == "rate";
        let rows: Vec<&Row> = report.rows.iter().filter(is_point).collect();
        if !rows.is_empty() {
            let file = format!("growth-{}.svg", name.replace(", ", "-"));
            line_chart(&folder.join(file), title, &rows)?;
        }
    }
    Ok(())
}

/// Rows by the start of their workload and their figure, each under a name.
fn series<'a>(report: &'a Report, wanted: &[(&str, &str, &'a str)]) -> Vec<(&'a str, &'a Row)> {
    let find = |(workload, figure, name): &(&str, &str, &'a str)| {
        let is_it = |row: &&Row| row.workload.starts_with(workload) && row.figure == *figure;
        Some((*name, report.rows.iter().find(is_it)?))
    };
    wanted.iter().filter_map(find).collect()
}

/// Groups of bars, one group a contestant, on a logarithmic scale.
fn bar_chart(file: &Path, title: &str, series: &[(&str, &Row)]) -> Result<()> {
    let takes_part = |who: &Who| series.iter().any(|(_, row)| row.median(*who).is_some());
    let who: Vec<Who> = Who::ALL.into_iter().filter(takes_part).collect();
    let all = || who.iter().flat_map(|who| series.iter().filter_map(|(_, row)| row.median(*who)));
    let (low, high) = (all().fold(f64::MAX, f64::min) / 3.0, all().fold(0.0, f64::max) * ROOM);
    let root = SVGBackend::new(file, SIZE).into_drawing_area();
    root.fill(&WHITE)?;
    let width = series.len() as f64 + 1.0;
    let mut chart = ChartBuilder::on(&root)
        .caption(title, ("sans-serif", 18, &TEXT))
        .margin(10)
        .x_label_area_size(30)
        .y_label_area_size(60)
        .build_cartesian_2d(0.0..who.len() as f64 * width, (low..high).log_scale())?;
    chart
        .configure_mesh()
        .disable_x_mesh()
        .x_labels(0)
        .y_max_light_lines(0)
        .y_label_formatter(&whole)
        .draw()?;
    for (place, (name, row)) in series.iter().enumerate() {
        let color = COLORS[place % COLORS.len()];
        let at = |group: usize| group as f64 * width + place as f64 + 0.5;
        let tops =
            who.iter().enumerate().filter_map(|(group, who)| Some((at(group), row.median(*who)?)));
        let tops: Vec<(f64, f64)> = tops.collect();
        let bar = |&(x, y): &(f64, f64)| Rectangle::new([(x, low), (x + 0.9, y)], color.filled());
        chart
            .draw_series(tops.iter().map(bar))?
            .label(*name)
            .legend(move |(x, y)| Rectangle::new([(x, y - 5), (x + 12, y + 5)], color.filled()));
        for (x, y) in tops {
            let top = chart.backend_coord(&(x + 0.45, y));
            write(&root, &short(y), (top.0, top.1 - 8))?;
        }
    }
    for (group, who) in who.iter().enumerate() {
        let below = chart.backend_coord(&((group as f64 + 0.5) * width, low));
        write(&root, who.name(), (below.0, below.1 + 14))?;
    }
    legend(&mut chart)?;
    Ok(root.present()?)
}

/// A line a contestant, on logarithmic scales.
fn line_chart(file: &Path, title: &str, rows: &[&Row]) -> Result<()> {
    let line = |who: Who| -> Vec<(f64, f64)> {
        rows.iter().filter_map(|row| Some((row.x? as f64, row.median(who)?))).collect()
    };
    let lines = [Who::Raw, Who::Ours].map(|who| (who, line(who)));
    let tops = || lines.iter().flat_map(|(_, points)| points.iter().map(|point| point.1));
    let (low, high) = (tops().fold(f64::MAX, f64::min) / 2.0, tops().fold(0.0, f64::max) * ROOM);
    let last = lines.iter().flat_map(|(_, points)| points.iter().map(|point| point.0));
    let last = last.fold(1.0, f64::max);
    let root = SVGBackend::new(file, SIZE).into_drawing_area();
    root.fill(&WHITE)?;
    let mut chart = ChartBuilder::on(&root)
        .caption(title, ("sans-serif", 18, &TEXT))
        .margin(10)
        .x_label_area_size(30)
        .y_label_area_size(60)
        .build_cartesian_2d((0.9..last * 1.2).log_scale(), (low..high).log_scale())?;
    chart
        .configure_mesh()
        .x_max_light_lines(0)
        .y_max_light_lines(0)
        .x_label_formatter(&whole)
        .y_label_formatter(&whole)
        .draw()?;
    for (place, (who, points)) in lines.into_iter().enumerate() {
        if points.is_empty() {
            continue;
        }
        let color = COLORS[place];
        chart
            .draw_series(LineSeries::new(points.clone(), color.stroke_width(2)).point_size(3))?
            .label(who.name())
            .legend(move |(x, y)| Rectangle::new([(x, y - 5), (x + 12, y + 5)], color.filled()));
        for (x, y) in points {
            let at = chart.backend_coord(&(x, y));
            write(&root, &short(y), (at.0, at.1 - 10))?;
        }
    }
    legend(&mut chart)?;
    Ok(root.present()?)
}

fn whole(number: &f64) -> String {
    format!("{number:.0}")
}

fn legend<'a, X>(
    chart: &mut ChartContext<'a, SVGBackend<'a>, Cartesian2d<X, LogCoord<f64>>>,
) -> Result<()>
where
    X: Ranged<ValueType = f64>,
{
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperRight)
        .background_style(WHITE.mix(0.8))
        .label_font(("sans-serif", 13, &TEXT))
        .draw()?;
    Ok(())
}

fn write(root: &Area<'_>, text: &str, at: (i32, i32)) -> Result<()> {
    let style = ("sans-serif", 12).into_font().color(&TEXT);
    let style = style.pos(Pos::new(HPos::Center, VPos::Center));
    Ok(root.draw(&Text::new(text.to_owned(), at, style))?)
}
