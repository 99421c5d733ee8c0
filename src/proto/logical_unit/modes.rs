//! How a unit behaves, as MODE SENSE tells and MODE SELECT changes it (SPC-4 §6.11 to §6.14, §7.5;
//! SBC-3 §6.5).
//!
//! All initiators share the mode pages of a unit. Nothing is saved: a reset brings defaults back.

use std::sync::atomic::{AtomicBool, Ordering};

use super::{LogicalUnit, NexusId, Outcome, allocated, illegal, invalid_field, invalid_parameter};
use crate::wire::scsi::{
    BlockDescriptor, CONTROL_EXTENSION_PAGE, CachingPage, Cdb, CdbSize, ControlPage,
    ERROR_RECOVERY_PAGE, EXCEPTIONS_PAGE, MODE_PAGE_ALL, MODE_PAGE_CACHING, MODE_PAGE_CONTROL,
    MODE_PAGE_ERROR_RECOVERY, MODE_PAGE_EXCEPTIONS, MODE_SUBPAGE_ALL,
    MODE_SUBPAGE_CONTROL_EXTENSION, ModeParameters, RawModePage, Sense, asc, parse_mode_selection,
};

/// What can be changed.
#[derive(Debug)]
pub(super) struct Modes {
    write_cache: AtomicBool,
    software_write_protect: AtomicBool,
    descriptor_sense: AtomicBool,
}

/// PC of MODE SENSE: which values are wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Values {
    Current,
    /// A mask of what MODE SELECT can change.
    Changeable,
    Default,
}

/// The pages, in the order of their codes.
const PAGES: [(u8, u8); 5] = [
    (MODE_PAGE_ERROR_RECOVERY, 0),
    (MODE_PAGE_CACHING, 0),
    (MODE_PAGE_CONTROL, 0),
    (MODE_PAGE_CONTROL, MODE_SUBPAGE_CONTROL_EXTENSION),
    (MODE_PAGE_EXCEPTIONS, 0),
];

/// Commands may overtake each other: a READ does not wait for the data of an earlier WRITE. Tasks
/// that another session's reset ends are answered with TASK ABORTED.
const CONTROL_PAGE: ControlPage = ControlPage {
    descriptor_sense: false,
    queue_algorithm: 1,
    software_write_protect: false,
    task_aborted_status: true,
    busy_timeout: u16::MAX,
};

impl Modes {
    /// The truth about the page cache of this machine, unless an initiator wants it otherwise:
    /// writes are answered before they are stable.
    pub(super) fn new(read_only: bool) -> Modes {
        Modes {
            write_cache: AtomicBool::new(!read_only),
            software_write_protect: AtomicBool::new(false),
            descriptor_sense: AtomicBool::new(false),
        }
    }

    /// WCE: writes are answered before they are stable.
    pub(super) fn write_cache(&self) -> bool {
        self.write_cache.load(Ordering::Relaxed)
    }

    /// SWP: writes are refused.
    pub(super) fn software_write_protect(&self) -> bool {
        self.software_write_protect.load(Ordering::Relaxed)
    }

    /// D_SENSE: sense data goes out in descriptor format.
    pub(super) fn descriptor_sense(&self) -> bool {
        self.descriptor_sense.load(Ordering::Relaxed)
    }
}

impl LogicalUnit {
    /// Sense data of this unit goes out in descriptor format.
    pub fn descriptor_sense(&self) -> bool {
        self.modes.descriptor_sense()
    }

    /// What is written stays in a volatile cache until it is flushed.
    pub fn write_cache(&self) -> bool {
        self.modes.write_cache()
    }

    /// The unit was reset: what initiators have changed is as it was in the beginning.
    pub(super) fn reset_modes(&self) {
        self.apply_caching(self.caching_page(Values::Default));
        self.apply_control(self.control_page(Values::Default));
    }

    pub(super) fn mode_sense(&self, cdb: &Cdb) -> Result<Outcome, Sense> {
        let &Cdb::ModeSense {
            size,
            no_block_descriptors,
            long_lba,
            page_control,
            page,
            subpage,
            allocation,
        } = cdb
        else {
            return Err(illegal(asc::INVALID_COMMAND_OPERATION_CODE));
        };
        let values = match page_control {
            0 => Values::Current,
            1 => Values::Changeable,
            2 => Values::Default,
            _ => {
                let sense = invalid_field(2, Some(7));
                return Err(Sense { asc: SAVING.0, ascq: SAVING.1, ..sense });
            }
        };
        let wanted = |code: &&(u8, u8)| {
            (page == MODE_PAGE_ALL || page == code.0)
                && (subpage == MODE_SUBPAGE_ALL || subpage == code.1)
        };
        let pages: Vec<u8> =
            PAGES.iter().filter(wanted).flat_map(|code| self.page(*code, values)).collect();
        if pages.is_empty() {
            let known = page == MODE_PAGE_ALL || PAGES.iter().any(|(code, _)| *code == page);
            return Err(invalid_field(if known { 3 } else { 2 }, None));
        }
        let parameters = ModeParameters {
            write_protected: self.read_only || self.modes.software_write_protect(),
            dpo_fua: true,
            block_descriptor: (!no_block_descriptors).then_some(self.block_descriptor()),
            long_lba,
            ..ModeParameters::default()
        };
        Ok(allocated(parameters.emit_with(size, &pages), usize::from(allocation)))
    }

    /// Changes what can be changed, or nothing. If something is different then, the other
    /// initiators are told so.
    pub(super) fn mode_select(
        &self,
        nexus: NexusId,
        size: CdbSize,
        (page_format, save): (bool, bool),
        parameter_bytes: u16,
        data: &[u8],
    ) -> Result<Outcome, Sense> {
        if !page_format {
            return Err(invalid_field(1, Some(4)));
        }
        if save {
            return Err(invalid_field(1, Some(0)));
        }
        if parameter_bytes == 0 {
            return Ok(Outcome::Good);
        }
        let length_error = illegal(asc::PARAMETER_LIST_LENGTH_ERROR);
        let list = data.get(..usize::from(parameter_bytes)).ok_or(length_error)?;
        let selection = parse_mode_selection(list, size).ok_or(length_error)?;
        if let Some(descriptor) = selection.block_descriptor {
            self.check_block_descriptor(descriptor, size)?;
        }
        // All are checked before the first is applied.
        for page in &selection.pages {
            self.check_page(page)?;
        }
        let before = PAGES.map(|code| self.page(code, Values::Current));
        let had_cache = self.modes.write_cache();
        for page in &selection.pages {
            match (page.page, page.subpage) {
                (MODE_PAGE_CACHING, 0) => self.apply_caching(CachingPage::parse(page.body)),
                (MODE_PAGE_CONTROL, 0) => self.apply_control(ControlPage::parse(page.body)),
                _ => {}
            }
        }
        if before != PAGES.map(|code| self.page(code, Values::Current)) {
            self.nexuses.tell_others(nexus, asc::MODE_PARAMETERS_CHANGED);
        }
        if had_cache && !self.modes.write_cache() {
            self.flush()?;
        }
        Ok(Outcome::Good)
    }

    /// The number of blocks and their size cannot be changed; zero blocks or all ones mean that
    /// they should not be.
    fn check_block_descriptor(
        &self,
        descriptor: BlockDescriptor,
        size: CdbSize,
    ) -> Result<(), Sense> {
        let header_bytes = if size == CdbSize::Six { 4 } else { 8 };
        let same = [0, u64::from(u32::MAX), u64::MAX, self.blocks].contains(&descriptor.blocks);
        if !same || descriptor.block_bytes != self.block_bytes {
            return Err(invalid_parameter(header_bytes));
        }
        Ok(())
    }

    /// Whether a page is one of ours and differs only where it may.
    fn check_page(&self, page: &RawModePage<'_>) -> Result<(), Sense> {
        /// PS means something only in MODE SENSE.
        const PS: u8 = 0x80;
        let code = (page.page, page.subpage);
        if !PAGES.contains(&code) {
            return Err(invalid_parameter(page.start as u16));
        }
        let (current, mask) =
            (self.page(code, Values::Current), self.page(code, Values::Changeable));
        let head = page.bytes.len() - page.body.len();
        if current.len() != page.bytes.len() {
            return Err(invalid_parameter((page.start + head - 1) as u16));
        }
        let differs = |index: &usize| {
            let ignored = match *index {
                0 => PS,
                index if index < head => 0,
                index => mask[index],
            };
            (current[*index] ^ page.bytes[*index]) & !ignored != 0
        };
        match (0..current.len()).find(differs) {
            Some(index) => Err(invalid_parameter((page.start + index) as u16)),
            None => Ok(()),
        }
    }

    fn page(&self, code: (u8, u8), values: Values) -> Vec<u8> {
        let fixed = |page: &[u8], head: usize| {
            let mut page = page.to_vec();
            if values == Values::Changeable {
                page[head..].fill(0);
            }
            page
        };
        match code {
            (MODE_PAGE_CACHING, _) => self.caching_page(values).emit().to_vec(),
            (MODE_PAGE_CONTROL, 0) => self.control_page(values).emit().to_vec(),
            (MODE_PAGE_CONTROL, _) => fixed(&CONTROL_EXTENSION_PAGE, 4),
            (MODE_PAGE_EXCEPTIONS, _) => fixed(&EXCEPTIONS_PAGE, 2),
            _ => fixed(&ERROR_RECOVERY_PAGE, 2),
        }
    }

    fn caching_page(&self, values: Values) -> CachingPage {
        let write_cache = match values {
            Values::Current => self.modes.write_cache(),
            // What is never written has no cache for writes.
            Values::Changeable | Values::Default => !self.read_only,
        };
        CachingPage { write_cache, read_cache_disabled: false }
    }

    fn control_page(&self, values: Values) -> ControlPage {
        match values {
            Values::Current => ControlPage {
                descriptor_sense: self.modes.descriptor_sense(),
                software_write_protect: self.modes.software_write_protect(),
                ..CONTROL_PAGE
            },
            Values::Changeable => ControlPage {
                descriptor_sense: true,
                software_write_protect: true,
                ..ControlPage::default()
            },
            Values::Default => CONTROL_PAGE,
        }
    }

    fn apply_caching(&self, page: CachingPage) {
        self.modes.write_cache.store(page.write_cache, Ordering::Relaxed);
    }

    fn apply_control(&self, page: ControlPage) {
        let Modes { software_write_protect, descriptor_sense, .. } = &self.modes;
        software_write_protect.store(page.software_write_protect, Ordering::Relaxed);
        descriptor_sense.store(page.descriptor_sense, Ordering::Relaxed);
    }

    fn block_descriptor(&self) -> BlockDescriptor {
        BlockDescriptor { blocks: self.blocks, block_bytes: self.block_bytes }
    }
}

const SAVING: (u8, u8) = asc::SAVING_PARAMETERS_NOT_SUPPORTED;
