//! The files of the page, which are in the program.

use axum::extract::Path;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};

use super::Failure;

const PAGE: &str = include_str!("page/index.html");
/// Colours and charts are the report's.
const FILES: [(&str, &str); 11] = [
    ("report.css", perennial_report::STYLE),
    ("dashboard.css", include_str!("page/dashboard.css")),
    ("icon.svg", include_str!("page/icon.svg")),
    ("main.js", include_str!("page/main.js")),
    ("ask.js", include_str!("page/ask.js")),
    ("draw.js", include_str!("page/draw.js")),
    ("words.js", include_str!("page/words.js")),
    ("overview.js", include_str!("page/overview.js")),
    ("submit.js", include_str!("page/submit.js")),
    ("job.js", include_str!("page/job.js")),
    ("kept.js", include_str!("page/kept.js")),
];

pub async fn page() -> Response {
    ([(CONTENT_TYPE, "text/html; charset=utf-8")], PAGE).into_response()
}

pub async fn asset(Path(name): Path<String>) -> Result<Response, Failure> {
    let found = FILES.iter().find(|(file, _)| *file == name);
    let Some((_, text)) = found else {
        return Err(Failure::new(
            StatusCode::NOT_FOUND,
            format!("the page has no file `{name}`"),
        ));
    };
    let kind = match name.rsplit_once('.') {
        Some((_, "css")) => "text/css; charset=utf-8",
        Some((_, "svg")) => "image/svg+xml",
        _ => "text/javascript; charset=utf-8",
    };
    Ok(([(CONTENT_TYPE, kind)], *text).into_response())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Words in quotes behind `before`.
    fn named<'a>(text: &'a str, before: &str) -> Vec<&'a str> {
        let pieces = text.split(before).skip(1);
        pieces.filter_map(|piece| piece.split('"').next()).collect()
    }

    #[test]
    fn the_page_names_files_that_are_there_and_nothing_elsewhere() {
        let known = |name: &str| FILES.iter().any(|(file, _)| *file == name);
        let mut names = named(PAGE, "href=\"/assets/");
        names.extend(named(PAGE, "src=\"/assets/"));
        assert!(names.len() >= 4, "{names:?}");
        for (_, text) in FILES {
            names.extend(named(text, "from \"./"));
        }
        for name in names {
            assert!(known(name), "{name}");
        }
        for (file, text) in FILES.iter().chain([&("index.html", PAGE)]) {
            for elsewhere in ["http://", "https://", "//cdn", "@import", "url("] {
                let text = text.replace("http://www.w3.org/", "");
                assert!(!text.contains(elsewhere), "{file}: {elsewhere}");
            }
        }
    }

    #[test]
    fn nothing_in_the_page_needs_more_than_its_policy_allows() {
        for wrong in [
            "<script>",
            "<style",
            " style=",
            " onclick=",
            " onload=",
            "javascript:",
        ] {
            assert!(!PAGE.contains(wrong), "{wrong}");
        }
        for (file, text) in FILES.iter().filter(|(file, _)| file.ends_with(".js")) {
            for wrong in [
                "eval(",
                "new Function",
                "setAttribute(\"style\"",
                ".onclick =",
            ] {
                assert!(!text.contains(wrong), "{file}: {wrong}");
            }
        }
    }
}
