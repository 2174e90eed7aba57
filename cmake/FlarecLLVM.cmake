# LLVM and MLIR 22, linked statically and once: into libflarec_compiler.so (and the compiler's test program).
find_package(MLIR REQUIRED CONFIG HINTS /usr/lib/llvm-22/lib/cmake/mlir)
if(NOT LLVM_VERSION_MAJOR EQUAL 22)
  message(FATAL_ERROR "flarec needs LLVM/MLIR 22, found ${LLVM_PACKAGE_VERSION}: scripts/setup installs it")
endif()
message(STATUS "LLVM ${LLVM_PACKAGE_VERSION} in ${LLVM_DIR}")
list(APPEND CMAKE_MODULE_PATH ${MLIR_CMAKE_DIR} ${LLVM_CMAKE_DIR})
include(TableGen)
include(AddLLVM)
include(AddMLIR)

# Debian's LLVMConfig turns on the LLVM dylib, and every exported static MLIR target pulls libLLVM.so in through its
# interface. Two LLVMs in one process crash at start, so the dylib goes and the archives come.
set(LLVM_LINK_LLVM_DYLIB OFF)
set(MLIR_LINK_MLIR_DYLIB OFF)
get_property(mlir_libs GLOBAL PROPERTY MLIR_ALL_LIBS)
foreach(lib IN LISTS MLIR_EXPORTED_TARGETS mlir_libs)
  if(TARGET ${lib})
    get_target_property(links ${lib} INTERFACE_LINK_LIBRARIES)
    if(links)
      list(REMOVE_ITEM links LLVM)
      set_target_properties(${lib} PROPERTIES INTERFACE_LINK_LIBRARIES "${links}")
    endif()
  endif()
endforeach()
# Debian builds Polly in but ships no libPolly.a; only LLVMLTO, which we do not link, calls it.
set_target_properties(LLVMExtensions PROPERTIES INTERFACE_LINK_LIBRARIES LLVMSupport)
llvm_map_components_to_libnames(FLAREC_LLVM_LIBS
  Core Support Target TargetParser MC Passes AsmParser BitWriter
  NVPTXCodeGen NVPTXDesc NVPTXInfo X86CodeGen X86AsmParser X86Desc X86Info)

# Everything that includes MLIR. No exceptions or RTTI in LLVM's own build.
add_library(flarec_llvm INTERFACE)
target_include_directories(flarec_llvm SYSTEM INTERFACE ${LLVM_INCLUDE_DIRS} ${MLIR_INCLUDE_DIRS})
target_compile_options(flarec_llvm INTERFACE -fno-rtti -fno-exceptions -fno-gnu-unique -fvisibility=hidden
  -fvisibility-inlines-hidden -Wall -Wno-unused-parameter -Wno-comment)
separate_arguments(flarec_llvm_defs NATIVE_COMMAND "${LLVM_DEFINITIONS}")
target_compile_options(flarec_llvm INTERFACE ${flarec_llvm_defs})
