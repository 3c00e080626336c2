//! A page with plots, in one file.
use super::Report;
/// The page.
pub fn page(report: &Report) -> String {
    format!("<pre>{}</pre>", report.json())
}
