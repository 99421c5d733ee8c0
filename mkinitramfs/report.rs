//! What the image holds and how large it is, for the person who built it.

use std::fmt::Write;

use crate::archive::Archive;
use crate::image::Image;

/// How many of the largest files are named.
const LARGEST: usize = 5;
/// How many missing firmware files are named without `--verbose`.
const MISSING: usize = 3;

/// The lines printed at the end, the first of which begins with `headline`.
pub(crate) fn report(headline: &str, image: &Image, compressed: u64, verbose: bool) -> String {
    let archive = &image.archive;
    let plain = archive.content_bytes();
    let mut text = format!("{headline}: {} ({} unpacked)\n", size(compressed), size(plain));
    let mut line = |what: &str, said: String| {
        let _ = writeln!(text, "  {what:<14}{said}");
    };
    line("agent", size(total(archive, |path| path == "init").1));
    for (what, directory) in
        [("network", "/drivers/net/"), ("file systems", "/fs/"), ("block", "/drivers/block/")]
    {
        line(what, counted(total(archive, |path| is_module(path) && path.contains(directory))));
    }
    let others = ["/drivers/net/", "/fs/", "/drivers/block/"];
    line(
        "other modules",
        counted(total(archive, |path| {
            is_module(path) && !others.iter().any(|directory| path.contains(directory))
        })),
    );
    line("firmware", counted(total(archive, |path| path.starts_with("lib/firmware/"))));
    let mut files: Vec<(&str, u64)> = archive.files().collect();
    files.sort_by_key(|&(path, length)| (std::cmp::Reverse(length), path));
    let name = |path: &str| path.rsplit('/').next().unwrap_or(path).to_owned();
    let largest =
        files.iter().take(LARGEST).map(|(p, length)| format!("{} {}", name(p), size(*length)));
    line("largest", largest.collect::<Vec<_>>().join(", "));
    let missing = &image.missing_firmware;
    if !missing.is_empty() {
        let shown = if verbose { missing.len() } else { MISSING };
        let named = missing.iter().take(shown).map(|(driver, file)| format!("{file} ({driver})"));
        let named = named.collect::<Vec<_>>().join(", ");
        let more = if missing.len() > shown { ", …: --verbose names all" } else { "" };
        line("not found", format!("{} firmware files: {named}{more}", missing.len()));
    }
    if verbose {
        for (path, length) in archive.files() {
            line("", format!("{length:>9} {path}"));
        }
    }
    text
}

fn is_module(path: &str) -> bool {
    path.starts_with("lib/modules/") && path.ends_with(".ko")
}

fn total(archive: &Archive, wanted: impl Fn(&str) -> bool) -> (usize, u64) {
    let files = archive.files().filter(|(path, _)| wanted(path));
    files.fold((0, 0), |(count, bytes), (_, length)| (count + 1, bytes + length))
}

fn counted((count, bytes): (usize, u64)) -> String {
    format!("{} in {count} files", size(bytes))
}

fn size(bytes: u64) -> String {
    format!("{}.{} MB", bytes / 1_000_000, bytes / 100_000 % 10)
}
