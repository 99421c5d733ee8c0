//! Finding out what a logical unit is: its size, its limits, and which disk it is.
//!
//! A fixed row of commands, run after every login. Commands that a target need not know may fail;
//! the answer is then the careful one.

use std::time::Duration;

use super::Error;
use super::command::{Command, Outcome, Transfer};
use super::disk::{Geometry, UnmapLimits};
use crate::wire::scsi::{
    BlockCharacteristics, BlockLimits, Capacity10, Capacity16, Cdb, CdbSize, DesignatorKind,
    LogicalBlockProvisioning, MODE_PAGE_CACHING, ModeParameters, PERIPHERAL_DISK, ScsiStatus,
    Sense, SenseKey, StandardInquiry, VPD_BLOCK_CHARACTERISTICS, VPD_BLOCK_LIMITS,
    VPD_DEVICE_IDENTIFICATION, VPD_LOGICAL_BLOCK_PROVISIONING, VPD_SUPPORTED_PAGES,
    VPD_UNIT_SERIAL_NUMBER, parse_device_identification, parse_supported_pages,
    parse_unit_serial_number,
};

/// Most bytes that an answer to a probe command may have.
pub(super) const PROBE_BYTES: usize = 4096;

/// Longest WRITE SAME that we send, in bytes: a target without holes has to write all of it.
const WRITE_ZEROES_BYTES_MAX: u64 = 64 << 20;

/// Longest UNMAP that we send, in bytes.
const UNMAP_BYTES_MAX: u64 = 1 << 30;

/// What the logical unit turned out to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Disk {
    /// Size and limits.
    pub geometry: Geometry,
    /// Which disk it is; the same after every reconnect, or it is another one.
    pub identity: Identity,
    /// T10 VENDOR IDENTIFICATION and PRODUCT IDENTIFICATION, for people.
    pub product: Box<str>,
}

impl Disk {
    /// Why `found` is not this disk come back, or `None` if it is.
    pub(super) fn difference(&self, found: &Disk) -> Option<&'static str> {
        if self.identity != found.identity {
            return Some(
                "another disk answers under the same name (its serial number or designator \
                 differs): nothing is written to it; bring the old one back",
            );
        }
        let (known, found) = (&self.geometry, &found.geometry);
        if known.logical_block_bytes != found.logical_block_bytes {
            return Some("the disk has come back with another block size: bring the old one back");
        }
        if found.blocks < known.blocks {
            return Some("the disk has come back smaller than it was: bring the old size back");
        }
        if found.read_only && !known.read_only {
            return Some("the disk has come back write-protected: make it writable again");
        }
        None
    }
}

/// What tells one disk from another: the best designator that it has (SPC-4 §7.8.6), or its serial
/// number, or nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Identity {
    /// Designator type, or none for a serial number.
    pub designator: Option<u8>,
    /// Its value as it came, at most 255 bytes.
    pub value: Box<[u8]>,
}

impl Identity {
    /// `designator` of an NAA name.
    pub const NAA: u8 = 5;
    /// `designator` of an EUI-64.
    pub const EUI64: u8 = 4;
}

/// The probe while it runs.
#[derive(Debug)]
pub(super) struct Probe {
    step: Step,
    pages: Vec<u8>,
    product: Box<str>,
    identity: Identity,
    capacity: Option<Capacity16>,
    limits: Option<BlockLimits>,
    characteristics: Option<BlockCharacteristics>,
    provisioning: Option<LogicalBlockProvisioning>,
    mode: Option<ModeParameters>,
    lun: u64,
    /// Unit attentions that came in between.
    attentions: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    TestUnitReady,
    Inquiry,
    Page(u8),
    Capacity16,
    Capacity10,
    ModeSense(CdbSize),
    Over,
}

/// What follows from an answer.
pub(super) enum Next {
    /// Send [`Probe::command`].
    Command,
    /// Send [`Probe::command`] after a while.
    Wait(Duration),
    /// That is all.
    Found(Disk),
}

/// Unit attentions that may come at once: several conditions may wait to be told.
const ATTENTIONS_AT_ONCE: u32 = 8;

/// The pause after each that comes on top of them.
const ATTENTION_PAUSE: Duration = Duration::from_secs(1);

/// VPD pages in the order in which they are asked for.
const PAGES: [u8; 6] = [
    VPD_SUPPORTED_PAGES,
    VPD_DEVICE_IDENTIFICATION,
    VPD_UNIT_SERIAL_NUMBER,
    VPD_BLOCK_LIMITS,
    VPD_BLOCK_CHARACTERISTICS,
    VPD_LOGICAL_BLOCK_PROVISIONING,
];

impl Probe {
    /// A probe of the unit with this LUN.
    pub(super) fn new(lun: u64) -> Probe {
        Probe {
            step: Step::TestUnitReady,
            pages: Vec::new(),
            product: "".into(),
            identity: Identity::default(),
            capacity: None,
            limits: None,
            characteristics: None,
            provisioning: None,
            mode: None,
            attentions: 0,
            lun,
        }
    }

    /// The command to send now.
    pub(super) fn command(&self) -> Command {
        let (cdb, bytes) = match self.step {
            Step::TestUnitReady | Step::Over => (Cdb::TestUnitReady, 0),
            Step::Inquiry => (Cdb::Inquiry { evpd: false, page: 0, allocation: 96 }, 96),
            Step::Page(page) => (Cdb::Inquiry { evpd: true, page, allocation: 1024 }, 1024),
            Step::Capacity16 => (Cdb::ReadCapacity16 { allocation: 32 }, 32),
            Step::Capacity10 => (Cdb::ReadCapacity10, 8),
            Step::ModeSense(size) => {
                let cdb = Cdb::ModeSense {
                    size,
                    no_block_descriptors: true,
                    long_lba: false,
                    page_control: 0,
                    page: MODE_PAGE_CACHING,
                    subpage: 0,
                    allocation: 252,
                };
                (cdb, 252)
            }
        };
        let transfer = if bytes == 0 { Transfer::None } else { Transfer::In(bytes) };
        Command { cdb: cdb.emit(), transfer }
    }

    /// Takes the answer to [`Probe::command`]; `buffer` is what the command has filled.
    pub(super) fn handle(
        &mut self,
        outcome: &Outcome,
        buffer: &[u8],
        transfer_bytes_max: u32,
    ) -> Result<Next, Error> {
        let (status, sense, received_bytes) = match outcome {
            Outcome::Status { status, sense, received_bytes, .. } => {
                (*status, *sense, *received_bytes as usize)
            }
            _ => return Ok(Next::Wait(Duration::from_secs(1))),
        };
        match status {
            ScsiStatus::Good => self.take(&buffer[..received_bytes.min(buffer.len())])?,
            ScsiStatus::CheckCondition => match sense.map(|sense| sense.key) {
                // Tells of a reset, a new configuration; the command itself was not looked at.
                Some(SenseKey::UnitAttention) => return Ok(self.begin_again()),
                Some(SenseKey::IllegalRequest) => self.refused(sense)?,
                Some(SenseKey::NotReady) | None => return Ok(Next::Wait(Duration::from_secs(1))),
                Some(_) => return Ok(Next::Wait(Duration::from_secs(1))),
            },
            _ => return Ok(Next::Wait(Duration::from_millis(250))),
        }
        self.skip_unsupported_pages();
        if self.step == Step::Over {
            return Ok(Next::Found(self.found(transfer_bytes_max)?));
        }
        Ok(Next::Command)
    }

    /// What was found out before may not hold any more.
    fn begin_again(&mut self) -> Next {
        let attentions = self.attentions + 1;
        *self = Probe { attentions, ..Probe::new(self.lun) };
        if attentions <= ATTENTIONS_AT_ONCE { Next::Command } else { Next::Wait(ATTENTION_PAUSE) }
    }

    fn take(&mut self, data: &[u8]) -> Result<(), Error> {
        self.step = match self.step {
            Step::TestUnitReady => Step::Inquiry,
            Step::Inquiry => {
                self.take_inquiry(&StandardInquiry::parse(data)?)?;
                Step::Page(VPD_SUPPORTED_PAGES)
            }
            Step::Page(page) => {
                self.take_page(page, data);
                after_page(page)
            }
            Step::Capacity16 => {
                self.capacity = Some(Capacity16::parse(data)?);
                Step::ModeSense(CdbSize::Six)
            }
            Step::Capacity10 => {
                let short = Capacity10::parse(data)?;
                self.capacity = Some(Capacity16 {
                    last_lba: u64::from(short.last_lba),
                    block_bytes: short.block_bytes,
                    protection: false,
                    physical_exponent: 0,
                    lowest_aligned_lba: 0,
                    provisioned: false,
                    reads_zero: false,
                });
                Step::ModeSense(CdbSize::Six)
            }
            Step::ModeSense(size) => {
                self.mode = ModeParameters::parse(data, size).ok();
                Step::Over
            }
            Step::Over => Step::Over,
        };
        Ok(())
    }

    /// The target does not know the command, or the unit.
    fn refused(&mut self, sense: Option<Sense>) -> Result<(), Error> {
        use crate::wire::scsi::asc::LOGICAL_UNIT_NOT_SUPPORTED;
        if sense.is_some_and(|sense| sense.code() == LOGICAL_UNIT_NOT_SUPPORTED) {
            return Err(self.absent());
        }
        self.step = match self.step {
            Step::TestUnitReady => Step::Inquiry,
            Step::Page(VPD_SUPPORTED_PAGES) => Step::Capacity16,
            Step::Page(page) => after_page(page),
            Step::Capacity16 => Step::Capacity10,
            Step::ModeSense(CdbSize::Six) => Step::ModeSense(CdbSize::Ten),
            Step::ModeSense(_) | Step::Over => Step::Over,
            Step::Inquiry | Step::Capacity10 => {
                let text = format!("LUN {}: the target refuses to describe it", self.shown_lun());
                return Err(Error::LogicalUnit(text.into()));
            }
        };
        Ok(())
    }

    fn take_inquiry(&mut self, inquiry: &StandardInquiry) -> Result<(), Error> {
        if inquiry.qualifier() != 0 {
            return Err(self.absent());
        }
        if inquiry.device_type() != PERIPHERAL_DISK {
            let text = format!(
                "LUN {} is no disk (peripheral device type {:#04x}): name another LUN",
                self.shown_lun(),
                inquiry.device_type()
            );
            return Err(Error::LogicalUnit(text.into()));
        }
        let shown = |bytes: &[u8]| {
            let text = String::from_utf8_lossy(bytes);
            text.trim().chars().filter(|c| !c.is_control()).collect::<String>()
        };
        self.product = format!("{} {}", shown(&inquiry.vendor), shown(&inquiry.product)).into();
        Ok(())
    }

    fn take_page(&mut self, page: u8, data: &[u8]) {
        match page {
            VPD_SUPPORTED_PAGES => {
                self.pages = parse_supported_pages(data).map_or_else(|_| vec![], <[u8]>::to_vec);
            }
            VPD_DEVICE_IDENTIFICATION => {
                if let Ok(designators) = parse_device_identification(data) {
                    // Association 0 is the unit itself, not the port that we came through.
                    let own = designators.iter().filter(|designator| designator.association == 0);
                    if let Some(best) = own.max_by_key(|designator| rank(designator.kind)) {
                        self.identity = Identity {
                            designator: Some(rank(best.kind)),
                            value: best.value.clone().into(),
                        };
                    }
                }
            }
            VPD_UNIT_SERIAL_NUMBER if self.identity.designator.is_none() => {
                if let Ok(serial) = parse_unit_serial_number(data) {
                    self.identity.value = serial.trim_ascii().into();
                }
            }
            VPD_BLOCK_LIMITS => self.limits = BlockLimits::parse(data).ok(),
            VPD_BLOCK_CHARACTERISTICS => {
                self.characteristics = BlockCharacteristics::parse(data).ok();
            }
            VPD_LOGICAL_BLOCK_PROVISIONING => {
                self.provisioning = LogicalBlockProvisioning::parse(data).ok();
            }
            _ => {}
        }
    }

    fn skip_unsupported_pages(&mut self) {
        while let Step::Page(page) = self.step {
            if page == VPD_SUPPORTED_PAGES || self.pages.contains(&page) {
                return;
            }
            self.step = after_page(page);
        }
    }

    fn found(&mut self, transfer_bytes_max: u32) -> Result<Disk, Error> {
        let capacity = self.capacity.expect("the step before the last has set it");
        let logical = capacity.block_bytes;
        if !logical.is_power_of_two() || !(512..=4096).contains(&logical) {
            let text = format!(
                "LUN {}: logical blocks of {logical} bytes: only 512, 1024, 2048 and 4096 work",
                self.shown_lun()
            );
            return Err(Error::LogicalUnit(text.into()));
        }
        let blocks = capacity.last_lba.checked_add(1);
        let blocks = blocks.filter(|blocks| blocks.checked_mul(u64::from(logical)).is_some());
        let Some(blocks) = blocks else {
            let text = format!("LUN {}: more bytes than 2^64", self.shown_lun());
            return Err(Error::LogicalUnit(text.into()));
        };
        let mode = self.mode.take();
        let caching = mode.as_ref().and_then(|mode| mode.caching);
        let physical = logical << capacity.physical_exponent.min(7);
        let geometry = Geometry {
            logical_block_bytes: logical,
            physical_block_bytes: physical,
            granularity_bytes: self.granularity_bytes(logical, physical),
            blocks,
            read_only: mode.as_ref().is_some_and(|mode| mode.write_protected),
            // A cache that is not denied is taken for real: a flush too many costs little.
            write_cache: caching.is_none_or(|caching| caching.write_cache),
            fua: mode.as_ref().is_some_and(|mode| mode.dpo_fua),
            rotational: self.characteristics.as_ref().is_some_and(|page| page.rotation_rate > 1),
            transfer_bytes_max: self.transfer_bytes_max(logical, transfer_bytes_max),
            unmap: self.unmap_limits(logical),
            write_zeroes_bytes_max: self.write_zeroes_bytes_max(logical),
        };
        let (identity, product) = (self.identity.clone(), self.product.clone());
        Ok(Disk { geometry, identity, product })
    }

    /// A granularity that no block device of Linux can have is none.
    fn granularity_bytes(&self, logical: u32, physical: u32) -> u32 {
        const GRANULARITY_BYTES_MAX: u32 = 1 << 20;
        let blocks = self.limits.as_ref().map_or(0, |limits| limits.transfer_granularity);
        let bytes = u32::from(blocks).saturating_mul(logical);
        let fits = bytes.is_power_of_two() && (physical..=GRANULARITY_BYTES_MAX).contains(&bytes);
        if fits { bytes } else { physical }
    }

    fn transfer_bytes_max(&self, logical: u32, ours: u32) -> u32 {
        let theirs = self.limits.as_ref().map_or(0, |limits| limits.transfer_max);
        match theirs {
            0 => ours,
            blocks => blocks.saturating_mul(logical).min(ours),
        }
    }

    fn unmap_limits(&self, logical: u32) -> Option<UnmapLimits> {
        let limits = self.limits.as_ref()?;
        self.provisioning.as_ref().filter(|page| page.unmap)?;
        if limits.unmap_blocks_max == 0 || limits.unmap_descriptors_max == 0 {
            return None;
        }
        let granularity_bytes = limits.unmap_granularity.max(1).checked_mul(logical)?;
        let bytes_max = u64::from(limits.unmap_blocks_max) * u64::from(logical);
        Some(UnmapLimits { bytes_max: bytes_max.min(UNMAP_BYTES_MAX), granularity_bytes })
    }

    fn write_zeroes_bytes_max(&self, logical: u32) -> u64 {
        if !self.provisioning.as_ref().is_some_and(|page| page.write_same_16) {
            return 0;
        }
        let theirs = self.limits.as_ref().map_or(0, |limits| limits.write_same_max);
        let bytes = theirs.saturating_mul(u64::from(logical));
        if bytes == 0 { WRITE_ZEROES_BYTES_MAX } else { bytes.min(WRITE_ZEROES_BYTES_MAX) }
    }

    fn absent(&self) -> Error {
        let text = format!(
            "the target has no LUN {}: check the LUN in the root path, and whether it is meant in \
             hexadecimal",
            self.shown_lun()
        );
        Error::LogicalUnit(text.into())
    }

    fn shown_lun(&self) -> crate::wire::scsi::Lun {
        crate::wire::scsi::Lun(self.lun.to_be_bytes())
    }
}

fn after_page(page: u8) -> Step {
    let place = PAGES.iter().position(|listed| *listed == page).unwrap_or(PAGES.len());
    PAGES.get(place + 1).map_or(Step::Capacity16, |next| Step::Page(*next))
}

/// How well a designator tells disks apart, with the number that stands for its type.
fn rank(kind: DesignatorKind) -> u8 {
    match kind {
        DesignatorKind::Naa => Identity::NAA,
        DesignatorKind::Eui64 => Identity::EUI64,
        DesignatorKind::ScsiName => 3,
        DesignatorKind::T10VendorId => 2,
        _ => 1,
    }
}
