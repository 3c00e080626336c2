//! A page with plots, in one file: it asks nobody for anything, and needs no script to be read.
//!
//! All that comes from outside is escaped by the macro that writes the markup (`maud`); what is not escaped is the
//! style, the script and the shapes, which are ours.

mod plot;
mod sections;
mod show;

use maud::{DOCTYPE, Markup, PreEscaped, html};

use super::Report;

/// Nothing may be loaded, whatever is in the page.
const POLICY: &str =
    "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:";
const STYLE: &str = include_str!("style.css");
const SCRIPT: &str = include_str!("script.js");
/// Two bars and a limit; a browser asks its server for one otherwise.
const ICON: &str = "data:image/svg+xml,%3Csvg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 16 16'%3E\
                    %3Cpath fill='%230b62b8' d='M2 8h3v6H2zM6.500 4h3v10h-3zM11 10h3v4h-3z'/%3E\
                    %3Cpath stroke='%23c2500a' d='M0 6h16'/%3E%3C/svg%3E";

/// The page.
pub fn page(report: &Report) -> String {
    let title = sections::title(report);
    let sections = sections::all(report);
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta http-equiv="Content-Security-Policy" content=(POLICY);
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                title { (title) }
                link rel="icon" href=(ICON);
                style { (PreEscaped(STYLE)) }
            }
            body {
                a.skip href="#content" { "Skip to the figures" }
                (definitions())
                (sections::headline(report))
                nav aria-label="Sections" {
                    ul { @for section in &sections { li { a href=(format!("#{}", section.id)) { (section.title) } } } }
                }
                main id="content" {
                    @for section in &sections {
                        section id=(section.id) class=[section.begins_page.then_some("begins-page")] {
                            h2 { (section.title) }
                            (section.body)
                        }
                    }
                }
                footer { "baton-load " (env!("CARGO_PKG_VERSION")) ", report format " code { (report.format) } }
                script { (PreEscaped(SCRIPT)) }
            }
        }
    };
    page.into_string()
}

/// Shapes and hatches that the plots refer to.
fn definitions() -> Markup {
    html! {
        svg.definitions width="0" height="0" aria-hidden="true" {
            defs {
                (plot::shapes())
                (sections::hatches())
            }
        }
    }
}
