"""How images arrive at a site: from folders and archives, or from a PACS over DICOMweb or classic DICOM."""
