//! The version of a NIXL library, which none of its calls returns.

use std::fs;
use std::path::Path;

use super::settings_files::check;

/// The version in the wheel or the pkg-config file next to the library. `None` without either.
pub(super) fn version(library: &Path) -> Option<String> {
    let folder = library.parent()?;
    by_wheel(folder.parent()?).or_else(|| by_pkg_config(folder))
}

fn by_wheel(folder: &Path) -> Option<String> {
    fs::read_dir(folder).ok()?.flatten().find_map(|entry| {
        let name = entry.file_name().into_string().ok()?;
        let wheel = name.strip_prefix("nixl_cu")?.strip_suffix(".dist-info")?;
        Some(wheel.split_once('-')?.1.to_owned())
    })
}

fn by_pkg_config(folder: &Path) -> Option<String> {
    let path = folder.join("pkgconfig/nixl.pc");
    let file = check(&path).and_then(|()| fs::read_to_string(path)).ok()?;
    file.lines().find_map(|line| Some(line.strip_prefix("Version:")?.trim().to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_wheel_goes_before_pkg_config() {
        let folder = tempfile::tempdir().unwrap();
        let lib = folder.path().join("lib");
        fs::create_dir_all(lib.join("pkgconfig")).unwrap();
        let library = lib.join("libnixl_capi.so");
        assert_eq!(version(&library), None);
        assert_eq!(version(Path::new("libnixl_capi.so")), None, "as the loader names it");
        fs::write(lib.join("pkgconfig/nixl.pc"), "Name: nixl\nVersion: 1.6.0\n").unwrap();
        assert_eq!(version(&library).as_deref(), Some("1.6.0"));
        fs::create_dir(folder.path().join("nixl_cu12-1.5.1.dist-info")).unwrap();
        assert_eq!(version(&library).as_deref(), Some("1.5.1"));
    }
}
