//! What depmod wrote about kernel modules: who needs whom, who answers to which device.
//!
//! Reads the texts of `modules.dep`, `modules.alias`, `modules.softdep` and `modules.builtin`
//! (depmod.d(5), modules.dep(5)); the agent loads by them at boot, the builder prunes by them.
//! Pure: text in, values out, no file is opened here. A line that cannot be read is left out and
//! remembered in [`Index::rejected`], because one bad line must not keep a machine from booting.
//!
//! Module names are compared with `-` folded to `_`, as the kernel does. Alias patterns are
//! `fnmatch(3)` patterns; they are sorted by their literal beginning, and a lookup narrows that
//! order character by character, so that some hundred devices against some ten thousand patterns
//! cost milliseconds even under emulation.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::ops::Range;

/// The texts that an [`Index`] is made from; one that is missing on disk stays empty.
#[derive(Debug, Default, Clone)]
pub struct Files {
    /// `modules.dep`: path, colon, paths of what it needs.
    pub dep: String,
    /// `modules.alias`: `alias PATTERN MODULE`.
    pub alias: String,
    /// `modules.softdep`: `softdep MODULE pre: MODULE... post: MODULE...`.
    pub softdep: String,
    /// `modules.builtin`: paths of modules that are part of the kernel.
    pub builtin: String,
}

/// The largest text that is read, in bytes; Debian's largest (modules.alias) has 1.5 MB.
pub const TEXT_BYTES_MAX: usize = 64 << 20;

/// How many rejected lines are remembered with their text.
pub const REJECTED_MAX: usize = 16;

/// One loadable module.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Module {
    /// Name as the kernel writes it: without directory and suffix, `-` folded to `_`.
    pub name: String,
    /// Path of the file, relative to `/lib/modules/VERSION`, with any `.xz`, `.zst` or `.gz`.
    pub path: String,
    needs: Vec<usize>,
    softdeps: SoftDeps,
}

/// Soft dependencies of one module: names or aliases, loaded if they are there.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SoftDeps {
    /// To be loaded before the module.
    pub pre: Vec<String>,
    /// To be loaded after the module.
    pub post: Vec<String>,
}

/// A line that could not be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rejected {
    /// File the line stands in, such as `modules.dep`.
    pub file: &'static str,
    /// Line number, from 1; 0 speaks of the whole file.
    pub line: usize,
    /// The rule it breaks.
    pub rule: &'static str,
}

impl fmt::Display for Rejected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} line {}: {}", self.file, self.line, self.rule)
    }
}

/// Neither a module, nor built in, nor an alias.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unknown {
    /// The name that was asked for.
    pub name: String,
}

impl fmt::Display for Unknown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "kernel module {}: not in modules.dep, modules.builtin or modules.alias",
            self.name
        )
    }
}

impl std::error::Error for Unknown {}

/// All that is known about the modules of one kernel.
#[derive(Debug, Default)]
pub struct Index {
    modules: Vec<Module>,
    by_name: HashMap<String, usize>,
    builtin: HashSet<String>,
    /// `modules.alias` with `-` folded to `_` outside brackets; patterns are ranges of it.
    alias_text: String,
    /// Sorted by literal beginning.
    aliases: Vec<Alias>,
    rejected: Vec<Rejected>,
}

#[derive(Debug, Clone)]
struct Alias {
    pattern: Range<usize>,
    /// Length of the part of the pattern before its first wildcard, in bytes.
    literal: usize,
    module: usize,
}

impl Index {
    /// Reads the texts. Never fails: what cannot be used is in [`Index::rejected`].
    pub fn parse(files: &Files) -> Index {
        let mut index = Index::default();
        index.parse_dep(&files.dep);
        index.parse_builtin(&files.builtin);
        index.parse_softdep(&files.softdep);
        index.parse_alias(&files.alias);
        index
    }

    /// Every module, in the order of `modules.dep`.
    pub fn modules(&self) -> &[Module] {
        &self.modules
    }

    /// The module of that name, with `-` and `_` taken as equal.
    pub fn module(&self, name: &str) -> Option<&Module> {
        self.by_name.get(&normalise(name)).map(|&at| &self.modules[at])
    }

    /// Whether a module of that name is part of the kernel itself.
    pub fn is_builtin(&self, name: &str) -> bool {
        self.builtin.contains(&normalise(name))
    }

    /// What `modules.dep` writes behind a module: its dependencies, what is needed first last.
    pub fn needs<'a>(&'a self, module: &'a Module) -> impl Iterator<Item = &'a Module> {
        module.needs.iter().map(|&at| &self.modules[at])
    }

    /// Names of what is part of the kernel itself, sorted.
    pub fn builtins(&self) -> Vec<&str> {
        let mut names: Vec<&str> = self.builtin.iter().map(String::as_str).collect();
        names.sort_unstable();
        names
    }

    /// The soft dependencies written for a module.
    pub fn softdeps<'a>(&'a self, module: &'a Module) -> &'a SoftDeps {
        &module.softdeps
    }

    /// Every alias with its module, sorted by the literal beginning of the pattern.
    pub fn aliases(&self) -> impl Iterator<Item = (&str, &Module)> {
        self.aliases.iter().map(|a| (&self.alias_text[a.pattern.clone()], &self.modules[a.module]))
    }

    /// The first [`REJECTED_MAX`] lines that could not be used.
    pub fn rejected(&self) -> &[Rejected] {
        &self.rejected
    }

    /// Modules whose alias patterns match `modalias` (such as the text of a device's `modalias`
    /// file), each once. Dependencies are not among them: see [`Index::load_order`].
    pub fn matching(&self, modalias: &str) -> Vec<&Module> {
        let text: Vec<u8> = modalias.trim().bytes().map(fold).collect();
        let mut found: Vec<usize> = Vec::new();
        let mut candidates = self.aliases.as_slice();
        for depth in 0..=text.len() {
            // A literal beginning that ends here sorts before all that go on.
            let ends_here = candidates.partition_point(|a| a.literal <= depth);
            for alias in &candidates[..ends_here] {
                let pattern = &self.alias_text.as_bytes()[alias.pattern.clone()];
                let rest = &pattern[alias.literal..];
                if !found.contains(&alias.module) && matches(rest, &text[depth..]) {
                    found.push(alias.module);
                }
            }
            candidates = &candidates[ends_here..];
            let Some(&byte) = text.get(depth) else { break };
            let at_depth = |a: &Alias| self.alias_text.as_bytes()[a.pattern.start + depth];
            let low = candidates.partition_point(|a| at_depth(a) < byte);
            let high = candidates.partition_point(|a| at_depth(a) <= byte);
            candidates = &candidates[low..high];
            if candidates.is_empty() {
                break;
            }
        }
        found.into_iter().map(|at| &self.modules[at]).collect()
    }

    /// What has to be loaded for `name`, a module or an alias, in order: soft dependencies `pre`,
    /// dependencies, the module, soft dependencies `post`. Empty if it is part of the kernel.
    pub fn load_order(&self, name: &str) -> Result<Vec<&Module>, Unknown> {
        let roots = self.resolve(name);
        if roots.is_empty() && !self.is_builtin(name) {
            return Err(Unknown { name: name.to_owned() });
        }
        Ok(self.closure(&roots).into_iter().map(|at| &self.modules[at]).collect())
    }

    /// Name first, then kernel, then alias: the order of modprobe(8).
    fn resolve(&self, name: &str) -> Vec<usize> {
        let name = normalise(name);
        if let Some(&at) = self.by_name.get(&name) {
            return vec![at];
        }
        if self.builtin.contains(&name) {
            return Vec::new();
        }
        self.matching(&name)
            .into_iter()
            .filter_map(|m| self.by_name.get(&m.name).copied())
            .collect()
    }

    /// Depth first with a stack of our own: a file may spell a chain of any length, or a ring.
    fn closure(&self, roots: &[usize]) -> Vec<usize> {
        enum Step {
            Visit(usize),
            Emit(usize),
        }
        let mut seen = vec![false; self.modules.len()];
        let mut order = Vec::new();
        let mut steps: Vec<Step> = roots.iter().rev().map(|&at| Step::Visit(at)).collect();
        while let Some(step) = steps.pop() {
            let at = match step {
                Step::Emit(at) => {
                    order.push(at);
                    continue;
                }
                Step::Visit(at) if seen[at] => continue,
                Step::Visit(at) => at,
            };
            seen[at] = true;
            let module = &self.modules[at];
            let soft = |names: &[String]| -> Vec<usize> {
                names.iter().flat_map(|name| self.resolve(name)).filter(|&m| !seen[m]).collect()
            };
            // Pushed last, done first. depmod writes what is needed first at the end of the line.
            steps.extend(soft(&module.softdeps.post).into_iter().rev().map(Step::Visit));
            steps.push(Step::Emit(at));
            steps.extend(module.needs.iter().filter(|&&m| !seen[m]).map(|&m| Step::Visit(m)));
            steps.extend(soft(&module.softdeps.pre).into_iter().rev().map(Step::Visit));
        }
        order
    }

    fn parse_dep(&mut self, text: &str) {
        const FILE: &str = "modules.dep";
        let mut complete = HashSet::new();
        for (number, line) in self.lines(FILE, text) {
            let Some((path, needs)) = line.split_once(':') else {
                self.reject(FILE, number, "has no colon after the path");
                continue;
            };
            let Some(at) = self.intern(path.trim()) else {
                self.reject(FILE, number, "is not a relative path that ends in .ko[.xz|.zst|.gz]");
                continue;
            };
            if !complete.insert(at) {
                self.reject(FILE, number, "names a module that an earlier line has named");
                continue;
            }
            for need in needs.split_whitespace() {
                match self.intern(need) {
                    Some(need) => self.modules[at].needs.push(need),
                    None => self.reject(FILE, number, "needs what is not a path of a module"),
                }
            }
        }
    }

    fn parse_builtin(&mut self, text: &str) {
        const FILE: &str = "modules.builtin";
        for (number, line) in self.lines(FILE, text) {
            match module_name(line) {
                Some(name) => drop(self.builtin.insert(name)),
                None => self.reject(FILE, number, "is not the path of a module"),
            }
        }
    }

    fn parse_softdep(&mut self, text: &str) {
        const FILE: &str = "modules.softdep";
        for (number, line) in self.lines(FILE, text) {
            let mut words = line.split_whitespace();
            let (Some("softdep"), Some(name)) = (words.next(), words.next()) else {
                self.reject(FILE, number, "does not begin with softdep and a name");
                continue;
            };
            // depmod also writes the soft dependencies of what is built in: not ours to load.
            let Some(&at) = self.by_name.get(&normalise(name)) else { continue };
            let softdeps = &mut self.modules[at].softdeps;
            let mut list = None;
            for word in words {
                match word {
                    "pre:" => list = Some(&mut softdeps.pre),
                    "post:" => list = Some(&mut softdeps.post),
                    _ => {
                        if let Some(list) = &mut list {
                            list.push(normalise(word));
                        }
                    }
                }
            }
        }
    }

    fn parse_alias(&mut self, text: &str) {
        const FILE: &str = "modules.alias";
        for (number, line) in self.lines(FILE, text) {
            let mut words = line.split_whitespace();
            let (Some("alias"), Some(pattern), Some(name)) =
                (words.next(), words.next(), words.next())
            else {
                self.reject(FILE, number, "is not alias, pattern and module");
                continue;
            };
            // An image holds few modules but may carry the whole file.
            let Some(&module) = self.by_name.get(&normalise(name)) else { continue };
            let start = self.alias_text.len();
            push_folded(&mut self.alias_text, pattern);
            let literal = pattern.bytes().position(is_special).unwrap_or(pattern.len());
            self.aliases.push(Alias { pattern: start..self.alias_text.len(), literal, module });
        }
        let text = self.alias_text.as_bytes();
        let literal = |a: &Alias| &text[a.pattern.start..a.pattern.start + a.literal];
        self.aliases.sort_by(|a, b| literal(a).cmp(literal(b)));
    }

    /// The index of a module by its path, made on first sight.
    fn intern(&mut self, path: &str) -> Option<usize> {
        let name = module_name(path)?;
        if let Some(&at) = self.by_name.get(&name) {
            return Some(at);
        }
        let at = self.modules.len();
        self.by_name.insert(name.clone(), at);
        let path = path.to_owned();
        self.modules.push(Module { name, path, needs: Vec::new(), softdeps: SoftDeps::default() });
        Some(at)
    }

    /// Lines that say something, numbered from 1.
    fn lines<'t>(
        &mut self,
        file: &'static str,
        text: &'t str,
    ) -> impl Iterator<Item = (usize, &'t str)> + use<'t> {
        let text = if text.len() > TEXT_BYTES_MAX {
            self.reject(file, 0, "is larger than 64 MiB and is not read");
            ""
        } else {
            text
        };
        let trimmed = text.lines().enumerate().map(|(at, line)| (at + 1, line.trim()));
        trimmed.filter(|(_, line)| !line.is_empty() && !line.starts_with('#'))
    }

    fn reject(&mut self, file: &'static str, line: usize, rule: &'static str) {
        if self.rejected.len() < REJECTED_MAX {
            self.rejected.push(Rejected { file, line, rule });
        }
    }
}

/// A module name as the kernel writes it: `-` folded to `_`.
pub fn normalise(name: &str) -> String {
    name.replace('-', "_")
}

/// The module name in a path; `None` if it is no module's path or leads out of its directory.
pub fn module_name(path: &str) -> Option<String> {
    if path.starts_with('/') || path.split('/').any(|part| part == "..") {
        return None;
    }
    let file = path.rsplit('/').next()?;
    let plain = [".xz", ".zst", ".gz"].iter().find_map(|s| file.strip_suffix(s)).unwrap_or(file);
    plain.strip_suffix(".ko").filter(|name| !name.is_empty()).map(normalise)
}

fn fold(byte: u8) -> u8 {
    if byte == b'-' { b'_' } else { byte }
}

fn is_special(byte: u8) -> bool {
    matches!(byte, b'*' | b'?' | b'[' | b'\\')
}

/// Appends a pattern with `-` folded, except in a bracket expression, where it spells a range.
fn push_folded(text: &mut String, pattern: &str) {
    let mut in_brackets = false;
    for c in pattern.chars() {
        match c {
            '[' => in_brackets = true,
            ']' => in_brackets = false,
            _ => {}
        }
        text.push(if c == '-' && !in_brackets { '_' } else { c });
    }
}

/// `fnmatch(3)` without flags. Steps back to the last `*` only, so the cost is at most the product
/// of the two lengths.
fn matches(pattern: &[u8], text: &[u8]) -> bool {
    let (mut p, mut t) = (0, 0);
    // Where to go on if what follows the last star does not fit: one more byte into the star.
    let mut retry: Option<(usize, usize)> = None;
    loop {
        if pattern.get(p) == Some(&b'*') {
            p += 1;
            retry = Some((p, t));
            continue;
        }
        if p == pattern.len() && t == text.len() {
            return true;
        }
        let step = text.get(t).and_then(|&byte| match_one(&pattern[p..], byte));
        if let Some(length) = step {
            p += length;
            t += 1;
            continue;
        }
        match retry {
            Some((after_star, from)) if from < text.len() => {
                retry = Some((after_star, from + 1));
                (p, t) = (after_star, from + 1);
            }
            _ => return false,
        }
    }
}

/// Matches one byte against the head of a pattern; gives the length of that head.
fn match_one(pattern: &[u8], byte: u8) -> Option<usize> {
    match *pattern.first()? {
        b'?' => Some(1),
        b'[' => match bracket(pattern) {
            Some((length, negated, set)) => (in_set(set, byte) != negated).then_some(length),
            None => (byte == b'[').then_some(1),
        },
        b'\\' if pattern.len() > 1 => (pattern[1] == byte).then_some(2),
        literal => (literal == byte).then_some(1),
    }
}

/// Cuts a bracket expression: its length, whether it is negated, its set.
/// `None` if it is never closed; then the bracket stands for itself.
fn bracket(pattern: &[u8]) -> Option<(usize, bool, &[u8])> {
    let negated = matches!(pattern.get(1), Some(b'!' | b'^'));
    let start = 1 + usize::from(negated);
    // A `]` in the first place belongs to the set.
    let close = pattern.iter().skip(start + 1).position(|&b| b == b']')? + start + 1;
    Some((close + 1, negated, &pattern[start..close]))
}

fn in_set(set: &[u8], byte: u8) -> bool {
    let mut rest = set;
    loop {
        match rest {
            [] => return false,
            [low, b'-', high, tail @ ..] => {
                if (*low..=*high).contains(&byte) {
                    return true;
                }
                rest = tail;
            }
            [one, tail @ ..] => {
                if *one == byte {
                    return true;
                }
                rest = tail;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn sample() -> Index {
        Index::parse(&Files {
            // As depmod writes it: every line holds the whole closure, the deepest last.
            dep: "kernel/net/core/failover.ko.xz:\n\
                  kernel/drivers/net/net_failover.ko.xz: kernel/net/core/failover.ko.xz\n\
                  kernel/drivers/net/virtio_net.ko.xz: kernel/drivers/net/net_failover.ko.xz \
                  kernel/net/core/failover.ko.xz\n\
                  kernel/fs/ext4/ext4.ko: kernel/fs/jbd2/jbd2.ko\n\
                  kernel/fs/jbd2/jbd2.ko:\n\
                  kernel/crypto/crc32c_generic.ko:\n\
                  kernel/arch/x86/crypto/crc32c-intel.ko.zst:\n\
                  kernel/drivers/block/late-one.ko.gz:\n"
                .into(),
            alias: "# Aliases extracted from modules themselves.\n\
                    alias virtio:d00000001v* virtio_net\n\
                    alias crc32c crc32c_generic\n\
                    alias crc32c crc32c_intel\n\
                    alias crypto-crc32c crc32c_intel\n\
                    alias pci:v00008086d0000[0-9A-F]5*sv*sd*bc*sc*i* late_one\n\
                    alias acpi*:PNP0C0A:* late_one\n\
                    alias fs-ext4 ext4\n\
                    alias gone not_there\n"
                .into(),
            softdep: "# Soft dependencies\n\
                      softdep ext4 pre: crc32c nothing post: late-one\n\
                      softdep built_thing pre: crc32c\n"
                .into(),
            builtin: "kernel/drivers/virtio/virtio-ring.ko\n".into(),
        })
    }

    fn names(modules: &[&Module]) -> Vec<String> {
        modules.iter().map(|m| m.name.clone()).collect()
    }

    #[test]
    fn dependencies_come_before_the_module_that_needs_them() {
        let index = sample();
        assert_eq!(index.rejected(), []);
        let order = index.load_order("virtio-net").unwrap();
        assert_eq!(names(&order), ["failover", "net_failover", "virtio_net"]);
        assert_eq!(order[2].path, "kernel/drivers/net/virtio_net.ko.xz");
    }

    #[test]
    fn soft_dependencies_are_resolved_as_aliases_and_may_be_missing() {
        let order = names(&sample().load_order("ext4").unwrap());
        assert_eq!(order, ["crc32c_generic", "crc32c_intel", "jbd2", "ext4", "late_one"]);
    }

    #[test]
    fn what_is_built_in_needs_no_loading_and_what_is_unknown_is_an_error() {
        let index = sample();
        assert!(index.is_builtin("virtio_ring"));
        assert_eq!(index.load_order("virtio_ring"), Ok(vec![]));
        let error = index.load_order("mlx9_core").unwrap_err();
        assert!(error.to_string().contains("mlx9_core"), "{error}");
    }

    #[test]
    fn an_alias_is_matched_like_fnmatch_does() {
        let index = sample();
        let found = |alias: &str| names(&index.matching(alias));
        assert_eq!(found("virtio:d00000001v00001AF4\n"), ["virtio_net"]);
        assert_eq!(found("virtio:d00000002v00001AF4"), [""; 0]);
        assert_eq!(found("pci:v00008086d0000A533sv1sd2bc02sc00i00"), ["late_one"]);
        assert_eq!(found("pci:v00008086d0000G533sv1sd2bc02sc00i00"), [""; 0]);
        assert_eq!(found("acpi:ABC:PNP0C0A:"), ["late_one"]);
        assert_eq!(found("crypto_crc32c"), ["crc32c_intel"]);
        assert_eq!(found("crypto-crc32c"), ["crc32c_intel"]);
        assert_eq!(found("fs-ext4"), ["ext4"]);
        assert_eq!(found(""), [""; 0]);
        assert_eq!(found("gone"), [""; 0]);
    }

    #[test]
    fn a_ring_of_dependencies_ends() {
        let files = Files { dep: "a.ko: b.ko\nb.ko: a.ko\n".into(), ..Files::default() };
        assert_eq!(names(&Index::parse(&files).load_order("a").unwrap()), ["b", "a"]);
    }

    #[test]
    fn a_long_chain_does_not_exhaust_the_stack() {
        let dep: String = (0..100_000).map(|i| format!("m{i}.ko: m{}.ko\n", i + 1)).collect();
        let index = Index::parse(&Files { dep, ..Files::default() });
        assert_eq!(index.load_order("m0").unwrap().len(), 100_001);
    }

    #[test]
    fn bad_lines_are_left_out_and_named() {
        let index = Index::parse(&Files {
            dep: "no colon here\n/abs/a.ko:\n../../b.ko:\nc.so:\nd.ko: ../e.ko\nd.ko:\n".into(),
            alias: "alias onlyone\n".into(),
            softdep: "softdep\n".into(),
            builtin: "x.txt\n".into(),
        });
        let lines: Vec<_> = index.rejected().iter().map(|r| (r.file, r.line)).collect();
        let dep = |line| ("modules.dep", line);
        let others = [("modules.builtin", 1), ("modules.softdep", 1), ("modules.alias", 1)];
        assert_eq!(lines[..6], [dep(1), dep(2), dep(3), dep(4), dep(5), dep(6)]);
        assert_eq!(lines[6..], others);
        assert_eq!(index.modules().len(), 1);
    }

    #[test]
    fn fnmatch_rules() {
        let yes = [
            ("*", ""),
            ("a*", "abc"),
            ("*c", "abc"),
            ("a*c*e", "abcde"),
            ("?", "x"),
            ("[!a]", "b"),
            ("[]]", "]"),
            ("[", "["),
            ("a\\*", "a*"),
            ("[a-]", "-"),
            ("**x", "aax"),
            ("", ""),
        ];
        let no = [
            ("", "x"),
            ("?", ""),
            ("a*c", "abd"),
            ("[!a]", "a"),
            ("[b-a]", "a"),
            ("a\\*", "ab"),
            ("*a*b", "bbbba"),
            ("[a", "a"),
        ];
        for (pattern, text) in yes {
            assert!(matches(pattern.as_bytes(), text.as_bytes()), "{pattern:?} {text:?}");
        }
        for (pattern, text) in no {
            assert!(!matches(pattern.as_bytes(), text.as_bytes()), "{pattern:?} {text:?}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_survived(text in "[ -~\n]{0,300}", asked in "[ -~]{0,40}") {
            let softdep = text.clone();
            let (alias, builtin) = (text.clone(), text.clone());
            let index = Index::parse(&Files { dep: text, alias, softdep, builtin });
            let _ = index.load_order(&asked);
            let _ = index.matching(&asked);
        }

        /// The narrowing lookup finds exactly what trying every pattern finds.
        #[test]
        fn narrowing_loses_no_match(
            patterns in prop::collection::vec("[ab*?\\-_]{1,6}", 1..40),
            asked in "[ab\\-_]{0,6}",
        ) {
            let mut dep = String::new();
            let mut alias = String::new();
            for (at, pattern) in patterns.iter().enumerate() {
                dep += &format!("m{at}.ko:\n");
                alias += &format!("alias {pattern} m{at}\n");
            }
            let index = Index::parse(&Files { dep, alias, ..Files::default() });
            let mut found = names(&index.matching(&asked));
            found.sort();
            let asked = normalise(&asked);
            let mut expected: Vec<String> = patterns.iter().enumerate()
                .filter(|(_, p)| matches(normalise(p).as_bytes(), asked.as_bytes()))
                .map(|(at, _)| format!("m{at}"))
                .collect();
            expected.sort();
            prop_assert_eq!(found, expected);
        }
    }
}
