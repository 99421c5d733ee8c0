//! Which commands a reservation lets through (SPC-4 §5.13.1, SBC-3 §4.16).

use super::reservations::Rights;
use crate::wire::scsi::Cdb;

/// What somebody must be allowed for a command. Those that are about reservations look for
/// themselves.
pub(in super::super) fn needed_rights(command: &Cdb) -> Rights {
    match command {
        Cdb::TestUnitReady
        | Cdb::RequestSense { .. }
        | Cdb::Inquiry { .. }
        | Cdb::ReportLuns { .. }
        | Cdb::ReadCapacity10
        | Cdb::ReadCapacity16 { .. }
        | Cdb::StartStopUnit { start: true, power_condition: 0, .. }
        | Cdb::PreventAllowMediumRemoval { prevent: 0 }
        | Cdb::Reserve { .. }
        | Cdb::Release { .. }
        | Cdb::PersistentReserveIn { .. }
        | Cdb::PersistentReserveOut { .. } => Rights::Asking,
        Cdb::Read { .. }
        | Cdb::Verify { .. }
        | Cdb::PreFetch { .. }
        | Cdb::GetLbaStatus { .. }
        | Cdb::ReadDefectData { .. }
        | Cdb::ModeSense { .. }
        | Cdb::ReportSupportedOperationCodes { .. }
        | Cdb::ReportSupportedTaskManagementFunctions { .. } => Rights::Reading,
        Cdb::Write { .. }
        | Cdb::WriteAndVerify { .. }
        | Cdb::CompareAndWrite { .. }
        | Cdb::WriteAtomic { .. }
        | Cdb::OrWrite { .. }
        | Cdb::ModeSelect { .. }
        | Cdb::SendDiagnostic { .. }
        | Cdb::SynchronizeCache { .. }
        | Cdb::Unmap { .. }
        | Cdb::Sanitize { .. }
        | Cdb::WriteSame { .. }
        | Cdb::StartStopUnit { .. }
        | Cdb::PreventAllowMediumRemoval { .. }
        | Cdb::Other { .. } => Rights::All,
    }
}
