# Stands in for the packaging scripts of Slicer: what the Extensions Manager shows has to be set.
foreach(_field IN ITEMS HOMEPAGE CONTRIBUTORS DESCRIPTION ICONURL SCREENSHOTURLS DEPENDS)
  if("${EXTENSION_${_field}}" STREQUAL "")
    message(FATAL_ERROR "EXTENSION_${_field} is not set: the Extensions Manager shows it")
  endif()
endforeach()
