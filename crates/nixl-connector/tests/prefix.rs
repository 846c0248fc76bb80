//! NIXL in a folder that the program names.
#![cfg(feature = "nixl")]
#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "a test says so")]

use std::env;
use std::path::Path;

use nixl_connector::nixl::{NixlLibrary, NixlOptions, NixlUnavailable};
use nixl_connector::{Connector, ConnectorError};

fn build(prefix: &Path) -> Result<Connector, ConnectorError> {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let options = NixlOptions::new().prefix(prefix);
    runtime.block_on(Connector::builder().name("prefix").nixl(options).build())
}

/// One test, since a process has one NIXL.
#[test]
fn nixl_is_looked_for_in_the_folder_that_is_given_and_opened_once() {
    if env::var_os("NIXL_PREFIX").is_some() {
        return eprintln!("skipped: NIXL_PREFIX goes before what a program says");
    }
    let nowhere = Path::new("/nonexistent/nixl");
    let Err(ConnectorError::Nixl(error)) = build(nowhere) else { panic!("found in {nowhere:?}") };
    let NixlUnavailable::NotFound { searched } = &error else { panic!("{error:?}") };
    assert!(searched.iter().all(|path| path.starts_with(nowhere)), "{error}");

    // What was not there once may be there now.
    let library = match env::var_os("NIXL_RUNTIME_DIR") {
        Some(folder) if Path::new(&folder).is_dir() => {
            build(Path::new(&folder)).unwrap();
            let library = NixlLibrary::open().unwrap();
            assert!(library.path().starts_with(&folder), "{library:?}");
            library
        }
        _ => NixlLibrary::open().unwrap(),
    };

    let Err(ConnectorError::Nixl(error)) = build(nowhere) else { panic!("another was opened") };
    let path = library.path().to_owned();
    assert_eq!(error, NixlUnavailable::OtherInForce { path, prefix: nowhere.to_owned() });
    if let Some(folder) = library.path().parent().filter(|folder| folder.is_absolute()) {
        build(folder).unwrap();
    }
}
