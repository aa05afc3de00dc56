// AMX on processors without it.
#pragma once

namespace clfast::bind {

// The instructions of amx.cpp raise a signal where the processor does not know them, and are then
// carried out as Intel's manual says: LDTILECFG, TILERELEASE, TILEZERO, TILELOADD, TILESTORED and
// TDPBF16PS, with every fault that a wrong operand would raise. Any other illegal instruction ends
// the process as before. May be called again.
void emulate_amx();

}  // namespace clfast::bind
