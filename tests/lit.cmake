# Tests in files: tests/dialects and tests/passes, by lit and FileCheck from Debian's llvm-22-tools.
find_program(FLAREC_LIT NAMES lit llvm-lit PATHS ${LLVM_TOOLS_BINARY_DIR} NO_DEFAULT_PATH)
find_program(FLAREC_FILECHECK NAMES FileCheck PATHS ${LLVM_TOOLS_BINARY_DIR} NO_DEFAULT_PATH)
find_package(Python3 COMPONENTS Interpreter REQUIRED)
if(NOT FLAREC_LIT OR NOT FLAREC_FILECHECK)
  message(WARNING "No lit or FileCheck in ${LLVM_TOOLS_BINARY_DIR}: the tests in files are left out; scripts/setup installs llvm-22-tools")
else()
  foreach(suite dialects passes)
    add_test(NAME lit.${suite} COMMAND ${Python3_EXECUTABLE} ${FLAREC_LIT} -sv --no-progress-bar -j 2
      --param flare_opt=$<TARGET_FILE:flare-opt> --param llvm_tools=${LLVM_TOOLS_BINARY_DIR}
      --param work=${CMAKE_CURRENT_BINARY_DIR}/lit ${CMAKE_CURRENT_SOURCE_DIR}/${suite})
  endforeach()
endif()
find_program(FLAREC_MLIR_TBLGEN NAMES mlir-tblgen PATHS ${LLVM_TOOLS_BINARY_DIR} NO_DEFAULT_PATH REQUIRED)
foreach(dialect Flare Tile)
  string(TOLOWER ${dialect} name)
  add_test(NAME dialects.examples.${name} COMMAND ${Python3_EXECUTABLE} ${CMAKE_CURRENT_SOURCE_DIR}/dialects/examples.py
    --tblgen ${FLAREC_MLIR_TBLGEN} --flare-opt $<TARGET_FILE:flare-opt> --include ${CMAKE_SOURCE_DIR}/dialects
    --include ${MLIR_INCLUDE_DIRS} --dialect ${name} ${CMAKE_SOURCE_DIR}/dialects/${name}/${dialect}Ops.td)
endforeach()
