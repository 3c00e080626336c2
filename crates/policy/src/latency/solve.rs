//! Small systems of linear equations.

pub(super) const N: usize = 6;
pub(super) type Vector = [f64; N];
pub(super) type Matrix = [[f64; N]; N];

/// Solves `a·x = b` for a symmetric positive definite `a`, where those of `x` that are pinned have
/// the value given; their equations are left out. `None` if `a` is no such matrix.
pub(super) fn solve(a: &Matrix, b: &Vector, pinned: &[Option<f64>; N]) -> Option<Vector> {
    let (mut a, mut b) = (*a, *b);
    for (at, value) in pinned.iter().enumerate() {
        let Some(value) = *value else { continue };
        for row in 0..N {
            b[row] -= a[row][at] * value;
            (a[row][at], a[at][row]) = (0.0, 0.0);
        }
        (a[at][at], b[at]) = (1.0, value);
    }
    cholesky(&mut a)?;
    for row in 0..N {
        let known: f64 = (0..row).map(|at| a[row][at] * b[at]).sum();
        b[row] = (b[row] - known) / a[row][row];
    }
    for row in (0..N).rev() {
        let known: f64 = (row + 1..N).map(|at| a[at][row] * b[at]).sum();
        b[row] = (b[row] - known) / a[row][row];
    }
    Some(b)
}

/// Puts the factor into the lower triangle.
fn cholesky(a: &mut Matrix) -> Option<()> {
    for row in 0..N {
        for column in 0..=row {
            let known: f64 = (0..column).map(|at| a[row][at] * a[column][at]).sum();
            let rest = a[row][column] - known;
            if row != column {
                a[row][column] = rest / a[column][column];
            } else if rest > 0.0 && rest.is_finite() {
                a[row][row] = rest.sqrt();
            } else {
                return None;
            }
        }
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Positive definite: the identity and two outer products.
    fn matrix() -> Matrix {
        let (u, v) = ([1.0, 2.0, 0.0, -1.0, 3.0, 0.5], [0.0, 1.0, -2.0, 4.0, 0.0, 1.0]);
        std::array::from_fn(|i| {
            std::array::from_fn(|j| u[i] * u[j] + v[i] * v[j] + f64::from(u8::from(i == j)))
        })
    }

    fn product(a: &Matrix, x: &Vector) -> Vector {
        std::array::from_fn(|row| (0..N).map(|at| a[row][at] * x[at]).sum())
    }

    #[test]
    fn solutions_solve() {
        let b = [3.0, -1.0, 4.0, 1.0, -5.0, 9.0];
        let x = solve(&matrix(), &b, &[None; N]).unwrap();
        for (got, wanted) in product(&matrix(), &x).into_iter().zip(b) {
            assert!((got - wanted).abs() < 1e-9, "{x:?}");
        }
    }

    #[test]
    fn pinned_ones_stay_and_the_rest_solves_what_is_left() {
        let b = [3.0, -1.0, 4.0, 1.0, -5.0, 9.0];
        let pinned = [None, Some(2.0), None, None, Some(-1.0), None];
        let x = solve(&matrix(), &b, &pinned).unwrap();
        assert_eq!((x[1], x[4]), (2.0, -1.0));
        for at in [0, 2, 3, 5] {
            let got = product(&matrix(), &x)[at];
            assert!((got - b[at]).abs() < 1e-9, "{at}: {x:?}");
        }
    }

    #[test]
    fn others_are_refused() {
        let mut singular = matrix();
        singular[2] = [0.0; N];
        singular.iter_mut().for_each(|row| row[2] = 0.0);
        assert_eq!(solve(&singular, &[1.0; N], &[None; N]), None);
        let nan = [[f64::NAN; N]; N];
        assert_eq!(solve(&nan, &[1.0; N], &[None; N]), None);
    }
}
