# SPDX-License-Identifier: Apache-2.0
# Runs COMMAND (a list) and writes to REPORT, under TITLE, what ptxas says of each kernel.

execute_process(COMMAND ${COMMAND} RESULT_VARIABLE status OUTPUT_VARIABLE output ERROR_VARIABLE output)
if(NOT status EQUAL 0)
  message(FATAL_ERROR "${output}")
endif()
string(REGEX MATCHALL
  "(Compiling entry function '[^']+' for 'sm_[0-9]+'|[0-9]+ bytes stack frame[^\n]*|Used [0-9]+ registers)" lines "${output}")
list(JOIN lines "\n" lines)
file(WRITE ${REPORT} "${TITLE}\n${lines}\n")
