//! A line through what was measured.

/// What a transfer of so many chunks and bytes took.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Point {
    pub(crate) chunks: f64,
    pub(crate) bytes: f64,
    pub(crate) us: f64,
}

/// Coefficients of `fixed + per_chunk × chunks + per_byte × bytes`, in microseconds.
pub(crate) type Line = [f64; 3];

/// The line with the least squares of the relative errors whose coefficients are not negative. None if the points do
/// not determine one.
///
/// With three coefficients, the best of the lines with some left out is found by looking at all.
pub(crate) fn fit(points: &[Point]) -> Option<Line> {
    (1u8..8)
        .filter_map(|used| least_squares(points, used))
        .filter(|line| line.iter().all(|c| *c >= 0.0))
        .min_by(|a, b| error(points, a).total_cmp(&error(points, b)))
}

/// The largest relative error of a line.
pub(crate) fn worst(points: &[Point], line: &Line) -> f64 {
    points.iter().map(|point| off(point, line).abs()).fold(0.0, f64::max)
}

fn error(points: &[Point], line: &Line) -> f64 {
    points.iter().map(|point| off(point, line).powi(2)).sum()
}

fn off(point: &Point, line: &Line) -> f64 {
    terms(point).iter().zip(line).map(|(term, c)| term * c).sum::<f64>() - 1.0
}

/// What the coefficients are multiplied with, as a share of the measured time.
fn terms(point: &Point) -> [f64; 3] {
    [1.0, point.chunks, point.bytes].map(|term| term / point.us)
}

/// Solves the normal equations for the coefficients whose bits are set in `used`; the others are zero.
fn least_squares(points: &[Point], used: u8) -> Option<Line> {
    let used: Vec<usize> = (0..3).filter(|index| used & (1 << index) != 0).collect();
    // So that the equations are well conditioned: every term is at most one.
    let scale: Vec<f64> = used
        .iter()
        .map(|index| points.iter().map(|p| terms(p)[*index]).fold(f64::MIN_POSITIVE, f64::max))
        .collect();
    let size = used.len();
    let mut rows = vec![vec![0.0; size + 1]; size];
    for point in points {
        let terms: Vec<f64> =
            used.iter().zip(&scale).map(|(index, scale)| terms(point)[*index] / scale).collect();
        for (row, left) in rows.iter_mut().zip(&terms) {
            for (cell, right) in row.iter_mut().zip(terms.iter().chain([&1.0])) {
                *cell += left * right;
            }
        }
    }
    let mut line = [0.0; 3];
    for ((index, scale), value) in used.iter().zip(&scale).zip(solve(rows)?) {
        line[*index] = value / scale;
    }
    Some(line)
}

/// Gauss's elimination; the last column is the right side.
fn solve(mut rows: Vec<Vec<f64>>) -> Option<Vec<f64>> {
    let size = rows.len();
    for column in 0..size {
        let pivot = (column..size)
            .max_by(|a, b| rows[*a][column].abs().total_cmp(&rows[*b][column].abs()))?;
        rows.swap(column, pivot);
        if rows[column][column].abs() < 1e-12 {
            return None;
        }
        let pivot = rows[column].clone();
        for (index, row) in rows.iter_mut().enumerate() {
            if index != column {
                let factor = row[column] / pivot[column];
                row.iter_mut().zip(&pivot).for_each(|(cell, p)| *cell -= factor * p);
            }
        }
    }
    Some((0..size).map(|index| rows[index][size] / rows[index][index]).collect())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SHAPES: [(f64, f64); 6] =
        [(1.0, 4e3), (1.0, 1e6), (1.0, 6.4e7), (16.0, 6.4e4), (256.0, 1e6), (4096.0, 1.6e7)];

    fn points(line: Line) -> Vec<Point> {
        let us = |chunks, bytes| line[0] + line[1] * chunks + line[2] * bytes;
        SHAPES.map(|(chunks, bytes)| Point { chunks, bytes, us: us(chunks, bytes) }).to_vec()
    }

    proptest! {
        #[test]
        fn a_line_is_found_again(fixed in 1.0..50.0, per_chunk in 0.01..5.0, gbps in 1.0..2000.0) {
            let line = [fixed, per_chunk, 1.0 / (gbps * 1e3)];
            let found = fit(&points(line)).unwrap();
            for (found, expected) in found.iter().zip(line) {
                prop_assert!((found / expected - 1.0).abs() < 1e-3, "{found} for {expected}");
            }
        }

        #[test]
        fn no_coefficient_is_negative(times in proptest::collection::vec(1.0..1e4, SHAPES.len())) {
            let points: Vec<_> = SHAPES
                .iter()
                .zip(times)
                .map(|((chunks, bytes), us)| Point { chunks: *chunks, bytes: *bytes, us })
                .collect();
            prop_assert!(fit(&points).unwrap().iter().all(|c| *c >= 0.0));
        }
    }

    #[test]
    fn nothing_determines_no_line() {
        assert_eq!(fit(&[]), None);
    }
}
