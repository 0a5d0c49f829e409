"""The commands, a file each: every one parses, calls one public function of a library, prints."""
