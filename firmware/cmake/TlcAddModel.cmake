# SPDX-License-Identifier: Apache-2.0
#
# tlc_add_model(<target> <directory>)
#
# A static library of the compiled model in a project that `tlc compile --out <directory>` wrote. Link it and
# include "tlc_model.h"; the runtime comes with it. A relative directory is relative to the calling CMakeLists.txt.
include_guard(GLOBAL)

function(tlc_add_model target directory)
    get_filename_component(root "${directory}" ABSOLUTE BASE_DIR "${CMAKE_CURRENT_SOURCE_DIR}")
    set(model "${root}/lib/tlc_model")
    file(GLOB sources CONFIGURE_DEPENDS "${model}/src/*.c")
    if(NOT sources)
        message(FATAL_ERROR "tlc_add_model(${target}): '${root}' holds no lib/tlc_model/src/*.c; "
            "name the directory that `tlc compile --out` wrote")
    endif()
    add_library(${target} STATIC ${sources})
    set_target_properties(${target} PROPERTIES
        C_STANDARD 99 C_STANDARD_REQUIRED ON C_EXTENSIONS OFF POSITION_INDEPENDENT_CODE ON)
    target_include_directories(${target} PUBLIC "${model}/include")
    target_link_libraries(${target} PUBLIC tlc::runtime)
    if(CMAKE_C_COMPILER_ID MATCHES "GNU|Clang")
        target_compile_options(${target} PRIVATE -ffp-contract=off) # as the runtime, and for the same reason
    endif()
endfunction()
