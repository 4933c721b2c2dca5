// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {CodeStore} from "../../src/lib/CodeStore.sol";

/// @notice CodeStore as a contract, for tests.
contract CodeStoreHarness {
    function write(bytes memory data) external returns (address pointer, bytes memory after_) {
        pointer = CodeStore.write(data);
        after_ = data;
    }

    function read(address pointer) external view returns (bytes memory) {
        return CodeStore.read(pointer);
    }
}
