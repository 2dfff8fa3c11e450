# SPDX-License-Identifier: Apache-2.0
# The CUDA kernels: for each CUDA compiler a libcrispstream_cuda<major>.so, so that CUDA 12 and 13 lie side by side, and
# beside it, as .txt, what it was built with and how many registers each kernel takes on each architecture.
#
# nvcc is called directly: CMake's own CUDA language knows one compiler in a build, and would want it in every build.

set(CRISPSTREAM_CUDA AUTO CACHE STRING "CUDA kernels: AUTO (where nvcc works), ON (an error where it does not), OFF")
set(CRISPSTREAM_NVCC "" CACHE STRING "nvcc programs, at most one of each CUDA version; empty: the one that is found")
set(CRISPSTREAM_CUDA_ARCHITECTURES "" CACHE STRING "for example 87 or 86;89; empty: all that nvcc and CrispStream know")
set_property(CACHE CRISPSTREAM_CUDA PROPERTY STRINGS AUTO ON OFF)

# 110 (Thor) was called 101 before CUDA 13; no driver for it runs without CUDA 13. Newer minor versions run what is
# built for these, other GPUs compile the PTX of the newest at first use.
set(ARCHITECTURES 75 80 86 87 89 90 100 110 120)
set(CUDA_SOURCES ${KERNELS}/pixel_cuda.cu ${KERNELS}/unpack_cuda.cu ${KERNELS}/blend_cuda.cu)
# As for the CPU: every multiplication and addition is rounded on its own.
set(NVCC_FLAGS -std=c++17 -O3 -fmad=false -cudart static -Xcompiler=-fPIC,-fvisibility=hidden,-ffp-contract=off
  -Xlinker=--exclude-libs,ALL)

function(leave_cuda_out why)
  if(CRISPSTREAM_CUDA STREQUAL "ON")
    message(FATAL_ERROR "CRISPSTREAM_CUDA is ON, but ${why}")
  endif()
  message(STATUS "CUDA kernels: left out, because ${why}. crispstream runs on the CPU.")
endfunction()

# A compiler may be there and not work: without its static runtime, or with a host compiler that it refuses.
function(try_nvcc nvcc result)
  set(folder ${CMAKE_CURRENT_BINARY_DIR}/try_nvcc)
  file(WRITE ${folder}/probe.cu "#include <cuda_runtime.h>\nextern \"C\" int probe() { return cudaGetLastError(); }\n")
  execute_process(COMMAND ${nvcc} ${NVCC_FLAGS} -shared -o ${folder}/probe.so ${folder}/probe.cu
    RESULT_VARIABLE status OUTPUT_VARIABLE output ERROR_VARIABLE output)
  set(why "")
  if(output MATCHES "cudart_static")
    set(why "${nvcc} has no static runtime library (libcudart_static.a, package cuda-cudart-dev)")
  elseif(NOT status EQUAL 0)
    string(STRIP "${output}" output)
    set(why "${nvcc} cannot compile: ${output}")
  endif()
  set(${result} "${why}" PARENT_SCOPE)
endfunction()

function(add_cuda_library nvcc)
  execute_process(COMMAND ${nvcc} --version RESULT_VARIABLE status OUTPUT_VARIABLE version ERROR_QUIET)
  if(NOT status EQUAL 0 OR NOT version MATCHES "release ([0-9]+)\\.([0-9]+)")
    leave_cuda_out("${nvcc} is not a CUDA compiler")
    return()
  endif()
  set(major ${CMAKE_MATCH_1})
  set(version ${CMAKE_MATCH_1}.${CMAKE_MATCH_2})
  if(major LESS 12)
    leave_cuda_out("${nvcc} is of CUDA ${version}, and CUDA 12 or newer is needed")
    return()
  endif()
  set(name crispstream_cuda${major})
  if(TARGET ${name})
    message(FATAL_ERROR "CRISPSTREAM_NVCC names two compilers of CUDA ${major}")
  endif()
  try_nvcc(${nvcc} why)
  if(why)
    leave_cuda_out("${why}")
    return()
  endif()

  set(wanted ${CRISPSTREAM_CUDA_ARCHITECTURES})
  if(NOT wanted)
    execute_process(COMMAND ${nvcc} --list-gpu-arch OUTPUT_VARIABLE known)
    foreach(architecture IN LISTS ARCHITECTURES)
      if("${known}\n" MATCHES "compute_${architecture}\n")
        list(APPEND wanted ${architecture})
      endif()
    endforeach()
  endif()
  foreach(architecture IN LISTS wanted)
    list(APPEND code -gencode=arch=compute_${architecture},code=sm_${architecture})
  endforeach()
  list(GET wanted -1 newest)
  list(APPEND code -gencode=arch=compute_${newest},code=compute_${newest})
  list(JOIN wanted " " shown)
  message(STATUS "CUDA kernels: CUDA ${version} (${nvcc}), architectures ${shown}, PTX of ${newest}")

  set(library ${CMAKE_CURRENT_BINARY_DIR}/lib${name}.so)
  set(report ${CMAKE_CURRENT_BINARY_DIR}/lib${name}.txt)
  file(GLOB headers CONFIGURE_DEPENDS ${KERNELS}/*.h ${KERNELS}/include/crispstream/*.h)
  set(command ${nvcc} ${NVCC_FLAGS} --threads 0 --resource-usage ${code} -I${KERNELS} -I${KERNELS}/include -shared
    -o ${library} ${CUDA_SOURCES})
  add_custom_command(OUTPUT ${library} ${report}
    COMMAND ${CMAKE_COMMAND} "-DCOMMAND=${command}" -DREPORT=${report} "-DTITLE=CUDA ${version}, architectures ${shown}"
      -P ${CMAKE_CURRENT_SOURCE_DIR}/cmake/run_nvcc.cmake
    DEPENDS ${CUDA_SOURCES} ${headers} ${CMAKE_CURRENT_SOURCE_DIR}/cmake/run_nvcc.cmake
    COMMENT "Compiling the CUDA kernels with CUDA ${version}; this takes a minute or two" VERBATIM)
  add_custom_target(${name} ALL DEPENDS ${library})
  install(FILES ${library} ${report} DESTINATION lib)
endfunction()

if(NOT CRISPSTREAM_CUDA MATCHES "^(AUTO|ON|OFF)$")
  message(FATAL_ERROR "CRISPSTREAM_CUDA is AUTO, ON or OFF, not ${CRISPSTREAM_CUDA}")
endif()
if(CRISPSTREAM_CUDA STREQUAL "OFF")
  message(STATUS "CUDA kernels: left out, because CRISPSTREAM_CUDA is OFF.")
else()
  set(compilers ${CRISPSTREAM_NVCC})
  if(NOT compilers)
    find_program(FOUND_NVCC nvcc HINTS ENV CUDA_HOME ENV CUDA_PATH PATHS /usr/local/cuda PATH_SUFFIXES bin)
    if(FOUND_NVCC)
      set(compilers ${FOUND_NVCC})
    else()
      leave_cuda_out("there is no nvcc on the PATH, in $CUDA_HOME/bin or in /usr/local/cuda/bin")
    endif()
  endif()
  foreach(compiler IN LISTS compilers)
    add_cuda_library(${compiler})
  endforeach()
endif()
